import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import Logger

from gpuopt.callbacks import GpuStats
from gpuopt.callbacks.gpu_stats import _sample_count
from gpuopt.hardware import DeviceReading
from gpuopt.measure import Instant, StepTimer


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
    logger, stats = Collected(), GpuStats(interval_s=0.001, devices=[Card()])
    make_trainer(stats, logger=logger, enable_checkpointing=False).fit(module, loader, loader)
    logged = [metrics for _, metrics in logger.metrics if "throughput/step_ms" in metrics]
    assert [step for step, metrics in logger.metrics if metrics in logged] == list(range(2, 18))
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


def test_a_step_of_several_batches_is_one_step(make_trainer, module, loader):
    stats = GpuStats(devices=[])
    options = {"accumulate_grad_batches": 2, "log_every_n_steps": 2, "enable_checkpointing": False}
    make_trainer(stats, **options).fit(module, loader, loader)
    assert sum(segment.steps for segment in stats.segments) == 9 - 2
    assert sum(segment.samples for segment in stats.segments) == 8 * (9 - 2)


def test_validation_inside_a_window_leaves_that_window_out(make_trainer, module, loader):
    """A clock that goes on with every batch: no step may take another time than its batches."""
    now = [0.0]

    class Work(L.Callback):
        def on_train_batch_start(self, *_):
            now[0] += 1.0

    stats = GpuStats(devices=[])
    stats._timer = StepTimer(lambda: Instant(lambda: now[0]), lambda: now[0])
    # Windows of two batches; validation after the third and the sixth of each epoch.
    options = {"accumulate_grad_batches": 2, "val_check_interval": 3, "log_every_n_steps": 50}
    trainer = make_trainer(Work(), stats, enable_checkpointing=False, **options)
    trainer.fit(module, loader, loader)
    assert stats.segments
    assert {segment.step_ms for segment in stats.segments} == {2000.0}


def test_figures_wait_for_the_device_and_keep_their_step(make_trainer, module, loader):
    """A device that lags two batches behind is waited for at the end of an epoch only."""

    class Late(Instant):
        def __init__(self):
            super().__init__()
            self.since = module.trainer.fit_loop.total_batch_idx

        def is_reached(self):
            return module.trainer.fit_loop.total_batch_idx >= self.since + 2

        def seconds_since(self, earlier):
            seen.append(module.trainer.fit_loop.total_batch_idx - self.since)
            return super().seconds_since(earlier)

    seen = []
    logger, stats = Collected(), GpuStats(devices=[])
    stats._timer = StepTimer(Late)
    make_trainer(stats, logger=logger, max_epochs=1, enable_checkpointing=False).fit(
        module, loader, loader
    )
    assert [step for step, metrics in logger.metrics if "throughput/step_ms" in metrics] == [
        *range(2, 6)
    ]
    assert seen == [2, 2, 1, 0]


def test_an_interrupted_run_logs_what_it_has_measured(make_trainer, module, loader):
    class Never(Instant):
        def is_reached(self):
            return False

    class Broken(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 4:
                raise ValueError

    stats = GpuStats(devices=[])
    stats._timer = StepTimer(Never)
    with pytest.raises(ValueError, match=r"^$"):
        make_trainer(stats, Broken(), enable_checkpointing=False).fit(module, loader, loader)
    assert len(stats.segments) == 4 - 2


def test_validation_does_not_count(make_trainer, module, loader):
    """A clock that only validation moves must not show up in the throughput."""
    now = [0.0]

    class Slow(L.Callback):
        def on_validation_batch_start(self, *_):
            now[0] += 100.0

        def on_train_batch_start(self, *_):
            now[0] += 0.5

    stats = GpuStats(devices=[])
    stats._timer = StepTimer(lambda: Instant(lambda: now[0]), lambda: now[0])
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_peak_memory_is_that_of_training(make_trainer, module, loader):
    stats = GpuStats()
    options = {"accelerator": "gpu", "devices": 1, "enable_checkpointing": False}
    make_trainer(stats, **options).fit(module, loader, loader)
    measured = stats.summary()["peak_memory_gib"]
    assert measured == torch.cuda.max_memory_reserved() / 2**30
    assert measured > 0


def test_memory_of_a_cpu_is_not_given_as_zero(make_trainer, module, loader):
    stats = GpuStats(devices=[])
    make_trainer(stats, enable_checkpointing=False).fit(module, loader, loader)
    assert "peak_memory_gib" not in stats.summary()
