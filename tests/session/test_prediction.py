import contextlib
import shutil
from types import SimpleNamespace

import pytest
import torch

from gpuopt.errors import FaultError, InputError
from gpuopt.hardware import load_catalogue
from gpuopt.schema import CONF_DIR
from gpuopt.session.device import cuda_properties, faults_in_words, torch_settings
from gpuopt.session.prediction import PredictionSetup, find_checkpoint
from gpuopt.session.weights import ModelDescription
from gpuopt.storage.checkpoint import write_checkpoint

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
MIB = 2**20
DESCRIPTION = ModelDescription("test_vit", ("a", "b"), 32, (1.0,) * 3, (1.0,) * 3)


def card(name="NVIDIA GeForce RTX 3060", major=8, minor=6):
    return SimpleNamespace(
        name=name, major=major, minor=minor, total_memory=12288 * MIB, multi_processor_count=28
    )


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA device that only answers questions; returns the memory shares it was given."""
    shares = []
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda index: card(),
        "get_arch_list": lambda: ["sm_80"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(
        torch.cuda.memory,
        "set_per_process_memory_fraction",
        lambda ratio, index: shares.append(ratio),
    )
    return shares


def chosen(preset, **settings):
    options = {"precision": "auto", "batch_size": 8, "num_workers": 0, **settings}
    return PredictionSetup.choose(DESCRIPTION, preset=preset, catalogue=CATALOGUE, **options)


def test_a_card_that_the_build_cannot_drive_is_refused(cuda, monkeypatch):
    assert chosen(CATALOGUE["rtx3060"]).device == "cuda"
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    with pytest.raises(InputError, match="cannot be driven"):
        chosen(CATALOGUE["rtx3060"])
    assert chosen(CATALOGUE["cpu"]).device == "cpu"


def test_more_devices_than_there_are_are_refused(cuda):
    assert cuda_properties(CATALOGUE["rtx3060"], 1).major == 8
    with pytest.raises(InputError, match="1 CUDA device"):
        cuda_properties(CATALOGUE["rtx3060"], 2)


@pytest.mark.parametrize(("precision", "expected"), [("tf32", "high"), ("fp32", "highest")])
def test_precision_and_memory_limit_hold_while_predicting_only(cuda, precision, expected):
    before = torch.get_float32_matmul_precision()
    other = {"high": "highest", "highest": "high"}[expected]
    torch.set_float32_matmul_precision(other)
    try:
        preset = CATALOGUE["rtx3060"].filled_from(CATALOGUE["rtx3060"])
        preset.memory_limit_mib = 3072
        with chosen(preset, precision=precision).applied():
            assert torch.get_float32_matmul_precision() == expected
            assert torch.backends.cudnn.allow_tf32 == (expected != "highest")
            assert cuda == [0.25]
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == other
        assert cuda == [0.25, 1.0]
    finally:
        torch.set_float32_matmul_precision(before)


def test_settings_are_given_back_after_a_failure():
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    settings = {"precision": "tf32", "memory_limit_mib": 100, "accelerator": "cpu"}

    def fail():
        with torch_settings(deterministic=True, **settings):
            assert torch.are_deterministic_algorithms_enabled()
            raise KeyError

    with contextlib.suppress(KeyError):
        fail()
    after = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    assert after == before


def test_a_missing_deterministic_kernel_is_bad_input():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with (
            pytest.raises(InputError, match=r"^trainer\.deterministic=true: put_ has no"),
            faults_in_words(card="c", setting="s", remedy="r"),
        ):
            torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(before)


def test_out_of_memory_says_what_to_lower():
    setup = chosen(CATALOGUE["cpu"])

    def fail():
        with setup.applied():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(FaultError, match=r"ran out of memory at batch_size=8: give batch_size=4"):
        fail()


def test_a_dead_loader_process_is_one_line_and_other_errors_pass():
    def fail(message):
        with faults_in_words(card="c", setting="s", remedy="r"):
            raise RuntimeError(message)

    with pytest.raises(FaultError, match="worker was killed"):
        fail("DataLoader worker (pid 5) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="a bug"):
        fail("a bug")


@pytest.fixture
def run(tmp_path):
    for step, name in ((1, "best"), (2, "last")):
        content = {"state_dict": {"w": torch.ones(4)}, "global_step": step, "epoch": step}
        write_checkpoint(content, tmp_path / f"checkpoints/{name}.ckpt")
    return tmp_path


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_the_best_epoch_is_used(run, caplog):
    assert find_checkpoint(run).name == "best.ckpt"
    assert not caplog.text


def test_a_damaged_best_falls_back_to_the_newest_with_a_warning(run, caplog):
    damage(run / "checkpoints/best.ckpt")
    assert find_checkpoint(run).name == "last.ckpt"
    assert "best.ckpt is damaged: last.ckpt is used instead" in caplog.text


def test_without_any_intact_checkpoint_the_run_is_refused(run):
    damage(run / "checkpoints/best.ckpt")
    damage(run / "checkpoints/last.ckpt")
    with pytest.raises(InputError, match="no intact checkpoint"):
        find_checkpoint(run)
    with pytest.raises(InputError, match="neither"):
        find_checkpoint(run / "nowhere")


def test_a_file_given_directly_needs_no_sidecar(run, tmp_path):
    alone = tmp_path / "alone.ckpt"
    shutil.copy(run / "checkpoints/best.ckpt", alone)
    assert find_checkpoint(alone) == alone


@pytest.mark.parametrize("before", [0, 1, 2])
def test_deterministic_means_an_error_and_what_was_set_comes_back(before):
    """Also where a script had asked for warnings only."""
    torch.set_deterministic_debug_mode(before)
    try:
        for wanted, mode in ((True, 2), (False, 0)):
            with torch_settings(
                precision="fp32", memory_limit_mib=None, deterministic=wanted, accelerator="cpu"
            ):
                assert torch.get_deterministic_debug_mode() == mode
            assert torch.get_deterministic_debug_mode() == before
    finally:
        torch.set_deterministic_debug_mode(0)
