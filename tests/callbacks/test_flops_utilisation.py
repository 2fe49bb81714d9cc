import logging

import lightning.pytorch as L
import pytest
import torch

from gpuopt.callbacks import GpuStats
from gpuopt.callbacks.flops_utilisation import FlopsUtilisation
from gpuopt.hardware import Gpu, load_catalogue, shipped_catalogue
from gpuopt.schema import CONF_DIR

CARD = Gpu(name="card", fp32_tflops=1e-6, tensor_tflops=4e-6, bf16_native=True)
# Of conftest's module: two linear layers.
FLOPS = 2 * (8 * 16 + 16 * 3)


@pytest.fixture
def formats():
    """Choose what PyTorch computes in where a tensor is fp32, for matrices and convolutions."""
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matrices.fp32_precision, convolutions.fp32_precision

    def choose(*names):
        matrices.fp32_precision, convolutions.fp32_precision = names

    yield choose
    choose(*before)


def fitted(make_trainer, module, loader, stats, **options):
    trainer = make_trainer(stats, enable_checkpointing=False, max_epochs=1, **options)
    trainer.fit(module, loader, loader)
    return stats.summary()


def test_three_times_forward_is_divided_by_the_dense_peak(make_trainer, module, loader):
    summary = fitted(make_trainer, module, loader, GpuStats(devices=[], card=CARD))
    assert summary["mfu_ratio"] == pytest.approx(3 * FLOPS * summary["samples_per_second"] / 1e6)


def test_operations_that_are_given_are_not_counted(make_trainer, module, loader, monkeypatch):
    monkeypatch.delattr("gpuopt.callbacks.flops_utilisation.ForwardWatch")
    stats = GpuStats(devices=[], card=CARD, forward_flops=1000.0)
    summary = fitted(make_trainer, module, loader, stats)
    assert summary["mfu_ratio"] == pytest.approx(3000 * summary["samples_per_second"] / 1e6)


def test_without_a_card_nothing_is_known_and_nothing_watched(
    make_trainer, module, loader, monkeypatch
):
    monkeypatch.delattr("gpuopt.callbacks.flops_utilisation.ForwardWatch")
    assert "mfu_ratio" not in fitted(make_trainer, module, loader, GpuStats())


@pytest.mark.parametrize(
    ("given", "trainers", "matmul", "flops_per_s"),
    [
        (None, "bf16-mixed", "highest", 4e6),
        (None, "32-true", "highest", 1e6),
        (None, "32-true", "high", 2e6),
        ("fp32", "32-true", "high", 1e6),
        ("tf32", "32-true", "highest", 2e6),
        (None, "64-true", "highest", None),
    ],
)
def test_the_peak_is_that_of_the_format(
    make_trainer, module, monkeypatch, formats, given, trainers, matmul, flops_per_s
):
    formats({"highest": "ieee", "high": "tf32"}[matmul], "tf32")
    trainer = make_trainer()
    monkeypatch.setattr(type(trainer), "precision", trainers)
    utilisation = FlopsUtilisation(500.0, CARD, given)
    utilisation.begin(trainer, module)
    found = utilisation.ratio(100.0)
    if flops_per_s is None:
        assert found is None
    else:
        assert found == pytest.approx(3 * 500 * 100 / flops_per_s)


@pytest.mark.parametrize(
    ("convolves_in", "matrices_in", "given", "flops_per_s"),
    [
        ("tf32", "ieee", None, 2e6),
        ("ieee", "ieee", None, 1e6),
        ("ieee", "tf32", None, 2e6),
        ("tf32", "ieee", "fp32", 1e6),
    ],
)
def test_convolutions_have_a_setting_of_their_own(
    make_trainer, formats, convolves_in, matrices_in, given, flops_per_s
):
    """PyTorch lets them use TF32 unless it is told otherwise."""
    formats(matrices_in, convolves_in)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    module = L.LightningModule()
    module.network = network
    utilisation = FlopsUtilisation(None, CARD, given)
    utilisation.begin(make_trainer(), module)
    utilisation.batch_begins(module)
    network(torch.zeros(2, 3, 8, 8))
    utilisation.batch_ends(2)
    flops = 2 * 4 * 3 * 9 * 36
    assert utilisation.ratio(10.0) == pytest.approx(3 * flops * 10 / flops_per_s)


def test_settings_that_torch_will_not_tell_in_the_old_way_stop_nothing(
    make_trainer, module, loader, formats
):
    formats("tf32", "ieee")
    with pytest.raises(RuntimeError):
        torch.get_float32_matmul_precision()
    assert fitted(make_trainer, module, loader, GpuStats(devices=[], card=CARD))["mfu_ratio"] > 0


def test_devices_share_the_work(make_trainer, module, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(type(trainer), "world_size", 4)
    utilisation = FlopsUtilisation(500.0, CARD, "fp32")
    utilisation.begin(trainer, module)
    assert utilisation.ratio(100.0) == pytest.approx(3 * 500 * 100 / 4e6)


def test_emulated_bf16_has_no_peak(make_trainer, module):
    turing = Gpu(name="t", fp32_tflops=1e-6, tensor_tflops=4e-6, bf16_native=False)
    utilisation = FlopsUtilisation(500.0, turing)
    utilisation.begin(make_trainer(precision="bf16-mixed"), module)
    assert utilisation.ratio(100.0) is None


def test_a_module_that_cannot_be_counted_trains_and_says_so_once(
    make_trainer, module, loader, caplog
):
    class Choosy(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1e9 else x

    caplog.set_level(logging.INFO, "gpuopt")
    module.net[-1] = Choosy(16, 3)
    summary = fitted(make_trainer, module, loader, GpuStats(devices=[], card=CARD))
    assert "mfu_ratio" not in summary
    assert summary["samples_per_second"] > 0
    lines = [r.getMessage() for r in caplog.records if "MFU is unknown" in r.getMessage()]
    assert len(lines) == 1


def test_a_module_that_takes_no_hooks_trains(make_trainer, module, loader, caplog):
    class Closed(torch.nn.Linear):
        def register_forward_pre_hook(self, *args, **options):
            raise RuntimeError("no hooks here")

    caplog.set_level(logging.INFO, "gpuopt")
    module.net[-1] = Closed(16, 3)
    assert "mfu_ratio" not in fitted(make_trainer, module, loader, GpuStats(devices=[], card=CARD))
    assert caplog.text.count("no hooks here") == 1
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_compiled_module_is_left_alone(make_trainer, module, loader, caplog):
    caplog.set_level(logging.INFO, "gpuopt")
    module.net.compile(backend="eager")
    assert "mfu_ratio" not in fitted(make_trainer, module, loader, GpuStats(devices=[], card=CARD))
    assert "give GpuStats(forward_flops=...)" in caplog.text


def test_no_hook_stays_also_after_an_error(make_trainer, module, loader):
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise ValueError

    module.net.append(Broken())
    stats = GpuStats(devices=[], card=CARD)
    with pytest.raises(ValueError, match=r"^$"):
        fitted(make_trainer, module, loader, stats)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_presets_that_come_with_it_are_those_of_the_configuration():
    assert shipped_catalogue() == load_catalogue(CONF_DIR / "gpu")


@pytest.mark.gpu
def test_a_real_card_has_a_peak(make_trainer, module, loader):
    options = {"accelerator": "gpu", "devices": 1}
    summary = fitted(make_trainer, module, loader, GpuStats(), **options)
    assert 0 < summary["mfu_ratio"] < 1
