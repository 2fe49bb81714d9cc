import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import Logger

from gpuopt.callbacks import GpuStats
from gpuopt.callbacks.gpu_stats import _sample_count
from gpuopt.hardware import DeviceReading


class Collected(Logger):
    """Keeps what it is given."""

    name, version = "collected", "0"

    def __init__(self):
        super().__init__()
        self.metrics = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics))


class Card:
    index = 0

    def read(self):
        return DeviceReading(index=0, power_w=70.5, utilisation_ratio=None)


def test_throughput_and_readable_fields_are_logged(make_trainer, module, loader):
    logger, stats = Collected(), GpuStats(interval_s=0.0, devices=[Card()])
    make_trainer(stats, logger=logger, enable_checkpointing=False).fit(module, loader, loader)
    logged = [metrics for _, metrics in logger.metrics if "throughput/step_ms" in metrics]
    assert logged
    assert logged[-1]["gpu0/power_w"] == 70.5
    assert not any("utilisation_ratio" in metrics for metrics in logged)
    summary = stats.summary()
    assert summary["samples_per_second"] > 0
    assert 0 <= summary["data_wait_ratio"] < 1


def test_every_step_but_the_warm_up_is_counted_once(make_trainer, module, loader):
    stats = GpuStats(devices=[])
    make_trainer(stats, enable_checkpointing=False, log_every_n_steps=2).fit(module, loader, loader)
    assert sum(segment.steps for segment in stats.segments) == 18 - 2
    assert sum(segment.samples for segment in stats.segments) == 4 * (18 - 2)


def test_validation_does_not_count(make_trainer, module, loader, monkeypatch):
    """A clock that only validation moves must not show up in the throughput."""
    now = [0.0]

    class Slow(L.Callback):
        def on_validation_batch_start(self, *_):
            now[0] += 100.0

        def on_train_batch_start(self, *_):
            now[0] += 0.5

    stats = GpuStats(devices=[])
    monkeypatch.setattr(stats._timer, "_clock", lambda: now[0])
    make_trainer(Slow(), stats, enable_checkpointing=False).fit(module, loader, loader)
    assert stats.summary()["samples_per_second"] == pytest.approx(8.0)


def test_without_steps_there_is_no_summary():
    assert GpuStats().summary() == {}


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.zeros(5, 2), 5),
        ([torch.zeros(3), torch.zeros(3)], 3),
        ({"x": torch.zeros(7)}, 7),
        (torch.zeros(()), 1),
        ("text", 1),
    ],
)
def test_samples_are_counted_in_any_batch(batch, count):
    assert _sample_count(batch) == count
