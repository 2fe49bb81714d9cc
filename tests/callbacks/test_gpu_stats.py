import threading
from contextlib import nullcontext

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, Dataset

from gpuopt.callbacks import GpuStats
from gpuopt.callbacks.device_stats import devices_of
from gpuopt.errors import InputError
from gpuopt.hardware import DeviceReading, Gpu
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
    """Draws 70.5 W, as long as it is there."""

    def __init__(self, index=0):
        self.index, self.is_lost, self.threads = index, False, set()

    def read(self):
        self.threads.add(threading.current_thread().name)
        if self.is_lost:
            raise OSError("it fell off the bus")
        return DeviceReading(
            index=self.index,
            power_w=70.5,
            utilisation_ratio=None,
            memory_used_bytes=2**30,
            throttle_reasons=["power_cap"],
        )


class Waiting(L.Callback):
    """Lets each batch wait for the next sample, so that every stretch has one."""

    def __init__(self, stats):
        self.stats = stats

    def on_train_batch_start(self, *_):
        reader = self.stats._stats._sampler.subscribe()
        assert reader.get(20.0) is not None
        reader.close()


def throughput_of(logger):
    return [metrics for _, metrics in logger.metrics if "throughput/step_ms" in metrics]


def test_throughput_and_readable_fields_are_logged(make_trainer, module, loader):
    card, logger = Card(), Collected()
    stats = GpuStats(interval_s=0.001, devices=[card])
    trainer = make_trainer(Waiting(stats), stats, logger=logger, enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    logged = throughput_of(logger)
    assert [step for step, metrics in logger.metrics if metrics in logged] == list(range(2, 18))
    for metrics in logged:
        assert metrics["gpu0/power_w"] == pytest.approx(70.5)
        assert metrics["gpu0/memory_used_gib"] == 1.0
        assert metrics["gpu0/throttled_power_cap_s"] > 0
        assert metrics["host/memory_used_gib"] > 0
        assert not {name for name in metrics if "utilisation" in name or "mfu" in name}
    assert card.threads == {"gpuopt-telemetry"}
    summary = stats.summary()
    assert summary["samples_per_second"] > 0
    assert 0 <= summary["data_wait_ratio"] < 1
    assert list(summary["throttled_s"]) == ["0"]
    assert summary["throttled_s"]["0"]["power_cap"] > 0


def test_joules_per_sample_are_logged_and_summed_up(make_trainer, module, loader):
    logger = Collected()
    stats = GpuStats(interval_s=0.001, devices=[Card()])
    trainer = make_trainer(Waiting(stats), stats, logger=logger, enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    assert any(metrics.get("energy/joules_per_sample", 0) > 0 for metrics in throughput_of(logger))
    summary = stats.summary()
    # The card draws 70.5 W without a break, so each sample takes its share of the time.
    expected = 70.5 / summary["samples_per_second"]
    assert summary["joules_per_sample"] == pytest.approx(expected, rel=0.01)


def test_joules_of_idle_devices_that_the_user_lists_count_too(make_trainer, module, loader):
    stats = GpuStats(interval_s=0.001, devices=[Card(0), Card(1)])
    make_trainer(Waiting(stats), stats, enable_checkpointing=False).fit(module, loader, loader)
    summary = stats.summary()
    expected = 2 * 70.5 / summary["samples_per_second"]
    assert summary["joules_per_sample"] == pytest.approx(expected, rel=0.01)


def test_a_machine_without_devices_tells_of_itself_alone(make_trainer, module, loader):
    logger, stats = Collected(), GpuStats(interval_s=0.001)
    trainer = make_trainer(Waiting(stats), stats, logger=logger, enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    names = {name for metrics in throughput_of(logger) for name in metrics}
    assert "host/memory_used_gib" in names
    assert {name.split("/")[0] for name in names} == {"throughput", "host"}
    assert set(stats.summary()) == {"samples_per_second", "step_ms", "data_wait_ratio"}


def test_the_progress_bar_shows_speed_and_mfu(make_trainer, module, loader):
    peak = Gpu(name="card", fp32_tflops=1e-6)
    trainer = make_trainer(GpuStats(devices=[], card=peak), enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    shown = trainer.progress_bar_metrics
    assert shown["samples/s"] > 0
    assert shown["mfu"] > 0


def test_the_thread_ends_with_the_training(make_trainer, module, loader):
    def is_reading():
        return any(thread.name == "gpuopt-telemetry" for thread in threading.enumerate())

    class Broken(L.Callback):
        def on_train_batch_start(self, *_):
            assert is_reading()
            if self.is_broken:
                raise ValueError("planted")

    broken, stats = Broken(), GpuStats(devices=[])
    for broken.is_broken in (False, True, False):
        ending = pytest.raises(ValueError, match="planted") if broken.is_broken else nullcontext()
        with ending:
            make_trainer(stats, broken, enable_checkpointing=False, max_epochs=1).fit(
                module, loader, loader
            )
        assert not is_reading()


def test_a_device_that_is_lost_stops_nothing_and_is_told_once(make_trainer, module, loader, caplog):
    card, logger = Card(), Collected()

    class Losing(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            card.is_lost = trainer.global_step >= 5

    stats = GpuStats(interval_s=0.001, devices=[card])
    trainer = make_trainer(Losing(), Waiting(stats), stats, logger=logger, max_epochs=3)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 18
    logged = throughput_of(logger)
    assert "gpu0/power_w" in logged[0]
    assert not any("gpu0/power_w" in metrics for metrics in logged[-3:])
    assert caplog.text.count("it fell off the bus") == 1


def test_a_full_disk_stops_nothing_and_is_told_once(make_trainer, module, loader, caplog):
    class Full(Collected):
        def log_metrics(self, metrics, step=None):
            if "throughput/step_ms" in metrics:
                raise OSError(28, "No space left on device")

    trainer = make_trainer(GpuStats(devices=[]), logger=Full(), enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 18
    assert caplog.text.count("No space left on device") == 1


def test_a_machine_without_a_thread_to_spare_trains_and_says_so(
    make_trainer, module, loader, monkeypatch, caplog
):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    stats = GpuStats(devices=[Card()])
    make_trainer(stats, enable_checkpointing=False).fit(module, loader, loader)
    assert stats.summary()["samples_per_second"] > 0
    assert caplog.text.count("devices cannot be read: can't start new thread") == 1


def test_only_the_devices_that_train_are_read(make_trainer, module, loader, monkeypatch):
    asked = []

    def cards():
        asked.append(1)
        return [Card(index) for index in range(4)]

    monkeypatch.setattr("gpuopt.callbacks.gpu_stats.cuda_devices", cards)
    trainer = make_trainer(GpuStats(), enable_checkpointing=False)
    monkeypatch.setattr(type(trainer), "device_ids", [1, 3])
    assert [device.index for device in devices_of(trainer, cards())] == [1, 3]
    asked.clear()
    trainer.fit(module, loader, loader)
    assert not asked  # a training on the CPU reads no GPU


@pytest.mark.parametrize("is_first", [True, False])
def test_of_several_ranks_the_first_one_reads_all_devices(
    make_trainer, module, loader, monkeypatch, is_first
):
    cards = [Card(0), Card(1)]
    stats = GpuStats(interval_s=0.001, devices=cards, card=Gpu(name="card", fp32_tflops=1e-6))
    trainer = make_trainer(stats, enable_checkpointing=False, max_epochs=1)
    monkeypatch.setattr(type(trainer), "is_global_zero", is_first)
    trainer.fit(module, loader, loader)
    assert [bool(card.threads) for card in cards] == [is_first, is_first]
    summary = stats.summary()
    assert ("throttled_s" in summary) == ("mfu_ratio" in summary) == is_first
    if is_first:
        assert set(summary["throttled_s"]) == {"0", "1"}


def test_every_step_but_the_warm_up_is_counted_once(make_trainer, module, loader):
    stats = GpuStats(devices=[])
    make_trainer(stats, enable_checkpointing=False, log_every_n_steps=2).fit(module, loader, loader)
    assert sum(segment.steps for segment in stats.segments) == 18 - 2
    assert sum(segment.samples for segment in stats.segments) == 4 * (18 - 2)


def test_samples_of_all_ranks_are_counted(make_trainer, module, loader, monkeypatch):
    stats = GpuStats(devices=[])
    trainer = make_trainer(stats, enable_checkpointing=False, max_epochs=1)
    monkeypatch.setattr(type(trainer), "world_size", 4)
    trainer.fit(module, loader, loader)
    assert {segment.samples / segment.steps for segment in stats.segments} == {4 * 4}


def test_nothing_is_read_any_more_when_training_has_ended(make_trainer, module, loader):
    seen = []

    class After(L.Callback):
        def on_fit_end(self, *_):
            names = [thread.name for thread in threading.enumerate()]
            seen.append("gpuopt-telemetry" in names)

    make_trainer(GpuStats(devices=[]), After(), enable_checkpointing=False, max_epochs=1).fit(
        module, loader, loader
    )
    assert seen == [False]


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


def test_an_interval_that_is_none_is_refused_at_once():
    with pytest.raises(InputError, match=r"interval_s=0: must be"):
        GpuStats(interval_s=0)


def test_without_steps_there_is_no_summary():
    assert GpuStats().summary() == {}


class Named(Dataset):
    """Images with the names of their files in front."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, row):
        return f"{row}.png", *self.dataset[row]


def test_samples_are_counted_behind_the_names_of_their_files(make_trainer, module, loader):
    train = module.training_step
    module.training_step = lambda batch, batch_idx: train(batch[1:], batch_idx)
    stats = GpuStats(devices=[])
    named = DataLoader(Named(loader.dataset), batch_size=4)
    make_trainer(stats, enable_checkpointing=False).fit(module, named, loader)
    assert {segment.samples / segment.steps for segment in stats.segments} == {4}


@pytest.mark.gpu
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
