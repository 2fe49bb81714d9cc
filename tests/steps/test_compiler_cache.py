import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from gpuopt.steps import compiler_cache
from gpuopt.steps.compiler_cache import CompilerCache, missing_compiler, same_keys

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_notes_lie_in_the_cache_and_go_with_it(tmp_path):
    cache = CompilerCache(tmp_path)
    assert not cache.holds("abc")
    cache.note("abc", "default", 12.5)
    assert cache.holds("abc")
    assert not CompilerCache(tmp_path).holds("abd")
    shutil.rmtree(cache.folder)
    assert not cache.holds("abc")


def test_pytorch_uses_it_inside_only(tmp_path, monkeypatch):
    cache = CompilerCache(tmp_path)
    with cache.in_use():
        assert os.environ[VARIABLE] == str(tmp_path / "compiled")
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "before")
    with cache.in_use():
        assert os.environ[VARIABLE] == str(tmp_path / "compiled")
    assert os.environ[VARIABLE] == "before"


def test_a_folder_that_the_user_gave_pytorch_wins(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "theirs"))
    assert CompilerCache(tmp_path).folder == tmp_path / "theirs"
    # PyTorch writes its own default there, which goes at the next boot.
    monkeypatch.setenv(VARIABLE, str(Path(tempfile.gettempdir()) / "torchinductor_somebody"))
    assert CompilerCache(tmp_path).folder == tmp_path / "compiled"


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "compiled").write_text("no folder")
    CompilerCache(tmp_path).note("abc", "default", 1.0)
    assert not CompilerCache(tmp_path).holds("abc")


def test_a_processor_needs_a_compiler(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_compiler(cpu, "inductor") == (
        "no C++ compiler: install no-such-compiler, or set CXX"
    )
    assert missing_compiler(cpu, "eager") is None
    monkeypatch.setattr(compiler_cache.shutil, "which", lambda name: f"/bin/{name}")
    assert missing_compiler(cpu, "inductor") is None


def test_a_card_needs_triton_and_a_compiler(monkeypatch):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(compiler_cache.importlib.util, "find_spec", lambda name: None)
    assert missing_compiler(cuda, "inductor") == "no Triton: install triton"
    monkeypatch.setattr(compiler_cache.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compiler_cache.shutil, "which", lambda name: None)
    assert missing_compiler(cuda, "inductor") == "no C compiler: install gcc, or set CC"
    monkeypatch.setattr(
        compiler_cache.shutil, "which", lambda name: name if name == "clang" else None
    )
    assert missing_compiler(cuda, "inductor") is None


def test_of_other_devices_nothing_is_known():
    assert missing_compiler(torch.device("meta"), "inductor") is not None


def test_keys_do_not_depend_on_who_imported_torch_first(monkeypatch):
    """PyTorch's keys are sums of pickles; modules are searched in the order of their import."""
    formats = [torch.contiguous_format, torch.channels_last, torch.preserve_format]

    def pickled():
        return pickle.dumps(formats)

    plain = pickled()
    with same_keys():
        before = pickled()
        monkeypatch.setattr(sys, "torch", torch, raising=False)  # as if it had been the first one
        assert pickled() == before != plain
        assert pickle.loads(before) == formats
    assert pickled() != plain
    monkeypatch.delattr(sys, "torch")
    assert pickled() == plain  # nothing is left behind
