import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
import torch

from gpuopt.engine import package_trial
from gpuopt.engine.aot_inductor import AotInductor
from gpuopt.engine.package_trial import require_no_crash
from gpuopt.errors import FaultError
from tests.engine.conftest import request, small


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let the process run a program of the test in place of the one that loads."""

    def put(program):
        folder = tmp_path / "modules"
        folder.mkdir()
        (folder / "stand_in.py").write_text(program)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(package_trial, "_NAME", "stand_in")

    return put


def test_a_crash_is_a_fault_that_names_signal_and_remedy(stand_in, tmp_path):
    stand_in("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(
        FaultError, match=r"x\.pt2 ends the process .* cpu \(SIGSEGV.*engine=compiled"
    ):
        require_no_crash(request(), tmp_path / "x.pt2")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (b"\x7fELF needs libc.so.6", r"my-g\+\+ linked a libstdc\+\+ of its own .* CXX="),
        (b"\x7fELF needs libstdc++.so.6", r"\(SIGSEGV\): take engine=compiled"),
    ],
)
def test_a_compiler_that_brings_its_own_library_is_named(
    stand_in, tmp_path, monkeypatch, code, words
):
    stand_in("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setenv("CXX", "my-g++")
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("x/data/model.so", code)
    with pytest.raises(FaultError, match=words):
        require_no_crash(request(), tmp_path / "x.pt2")


def test_a_package_that_hangs_is_a_fault_and_nothing_stays(stand_in, tmp_path):
    stand_in(f"open({str(tmp_path / 'started')!r}, 'w').close(); import time; time.sleep(60)")
    with pytest.raises(FaultError, match="does not load within 1 s"):
        require_no_crash(request(), tmp_path / "x.pt2", limit_s=1)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "stand_in" not in listed.stdout


def test_an_error_that_can_be_caught_is_left_to_the_one_who_loads(stand_in, tmp_path):
    stand_in("raise SystemExit(1)")
    require_no_crash(request(), tmp_path / "x.pt2")


def test_on_a_gpu_it_is_tried_before_it_is_kept(monkeypatch, tmp_path):
    tried = []
    monkeypatch.setattr("gpuopt.engine.aot_inductor.export_program", lambda network, asked: None)
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", lambda *args, **kwargs: None)
    monkeypatch.setattr(
        "gpuopt.engine.aot_inductor.require_no_crash",
        lambda asked, package: tried.append((str(asked.device), package.name)),
    )
    asked = replace(request(), device=torch.device("cuda", 0))
    AotInductor().build(asked, small(), tmp_path / "engine.pt2")
    assert tried == [("cuda:0", "engine.pt2")]


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_sound_package_runs_there(tmp_path):
    AotInductor().build(request(), small(), tmp_path / "engine.pt2")
    words = [sys.executable, "-m", "gpuopt.engine.package_trial", str(tmp_path / "engine.pt2")]
    words += ["cpu", str(request().image_size)]
    done = subprocess.run([*words, str(os.getpid())], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    orphan = subprocess.run([*words, "1"], capture_output=True, text=True, timeout=120)
    assert (orphan.returncode, orphan.stderr) == (1, "")
    assert not package_trial._brings_libstdcxx(tmp_path / "engine.pt2")
