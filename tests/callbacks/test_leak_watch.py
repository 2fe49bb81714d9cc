"""Planted leaks are told apart and found with their line; clean trainings raise no alarm.

The clock moves one second per step, so nothing depends on how fast this machine is.
"""

import gc
import inspect
import sys
import tracemalloc

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import _TunerExitException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gpuopt.callbacks.leak_watch import LeakWatch
from gpuopt.errors import InputError
from tests.callbacks.timed_training import Clock, trainer_with

MIB = 2**20


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 4)
        self.kept = []

    def training_step(self, batch, batch_idx):
        images, targets = batch
        loss = nn.functional.cross_entropy(self.net(images), targets)
        self.leak(loss)
        return loss

    def leak(self, loss):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class KeepsTensors(Module):
    def leak(self, loss):
        self.kept.append(torch.zeros(MIB // 4))


class KeepsSmallTensors(Module):
    def leak(self, loss):
        self.kept.append(torch.zeros(MIB // 40))


class KeepsGraphs(Module):
    def leak(self, loss):
        hidden = torch.zeros(MIB // 4, requires_grad=True) * 2
        self.kept.append((hidden * hidden).sum())


class KeepsArrays(Module):
    def leak(self, loss):
        self.kept.append(np.ones(MIB, np.uint8))


class KeepsCycles(Module):
    def leak(self, loss):
        around = [torch.zeros(MIB // 4)]
        around.append(around)


class KeepingDataset(TensorDataset):
    """Keeps something of each sample, in the process that loads it."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.kept = []

    def __getitem__(self, index):
        self.kept.append(np.ones(MIB // 4, np.uint8))
        return super().__getitem__(index)


class Ticks(L.Callback):
    def __init__(self, clock):
        self._clock = clock

    def on_train_batch_end(self, *args):
        self._clock.spend(1.0)


def watch(
    module,
    *,
    duration_s=60,
    threshold_mib=20,
    steps=None,
    seed=0,
    dataset=TensorDataset,
    workers=0,
    **options,
):
    clock = Clock()
    watching = LeakWatch(duration_s, threshold_mib, ends_fit=True, clock=clock)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(70, 8, generator=generator)
    samples = dataset(images, torch.arange(70) % 4)
    loader = DataLoader(samples, 8, num_workers=workers, persistent_workers=workers > 0)
    trainer = trainer_with(watching, Ticks(clock), max_steps=steps or -1, **options)
    trainer.fit_loop.max_epochs = 1000
    trainer.fit(module, loader)
    return watching, trainer


def line_of(module, text):
    lines, first = inspect.getsourcelines(type(module).leak)
    return first + next(i for i, line in enumerate(lines) if text in line)


@pytest.mark.parametrize(
    ("module", "kind", "size_bytes", "text"),
    [
        (KeepsTensors(), "leak", MIB, "zeros"),
        (KeepsSmallTensors(), "leak", MIB / 10, "zeros"),
        (KeepsGraphs(), "leak", 2 * MIB, "* 2"),
        (KeepsArrays(), "host", MIB, "ones"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Module) else None,
)
def test_a_leak_is_told_with_its_line_and_what_holds_it(module, kind, size_bytes, text):
    found, _ = watch(module, threshold_mib=4)
    assert [growth.kind for growth in found.growth] == [kind]
    assert found.growth[0].bytes_per_step == pytest.approx(size_bytes, rel=0.6)
    site = found.sites[0]
    assert site.place == f"{__file__}:{line_of(module, text)}"
    assert text in site.code
    assert site.objects_per_step >= 1
    assert f"list {type(module).__name__}.kept" in [one.name for one in found.containers]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("dataset", "kinds"), [(KeepingDataset, ["loader"]), (TensorDataset, [])])
def test_what_a_dataset_keeps_in_the_loaders_processes_is_a_leak(dataset, kinds, monkeypatch):
    # Lines of this process would be the wrong ones, and following them is slow.
    monkeypatch.setattr("gpuopt.callbacks.leak_watch.AllocationTrace", None)
    found, _ = watch(Module(), duration_s=30, threshold_mib=10, dataset=dataset, workers=1)
    assert [growth.kind for growth in found.growth] == kinds
    assert found.sites == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_this_process_has_freed_hides_no_leak_of_its_loader(monkeypatch):
    monkeypatch.setattr("gpuopt.callbacks.leak_watch.AllocationTrace", None)
    np.ones(2 * MIB, np.uint8)  # once freed, blocks of its size come from the heap
    blocks = [np.ones(MIB, np.uint8) for _ in range(100)]
    del blocks[:-1]  # the last keeps the heap from getting shorter
    found, _ = watch(Module(), duration_s=30, threshold_mib=10, dataset=KeepingDataset, workers=1)
    assert [growth.kind for growth in found.growth] == ["loader"]


def test_tensors_in_cycles_wait_for_the_collector_and_are_no_leak():
    found, _ = watch(KeepsCycles(), threshold_mib=40)
    assert found.growth == []
    assert found.cycles is not None
    assert found.cycles.tensors_per_step == 1
    assert found.cycles.bytes_per_step == MIB
    assert found.cycles.holders == ("list",)


def test_no_alarm_in_twenty_clean_runs():
    for seed in range(20):
        found, _ = watch(Module(), duration_s=30, threshold_mib=10, seed=seed)
        assert found.growth == [], seed
        assert found.sites == []
        assert found.cycles is None
        assert len(found.series.time_s) >= 30


def test_readings_are_taken_before_steps_and_without_the_batch():
    found, _ = watch(Module(), duration_s=12, accumulate_grad_batches=3)
    assert found.series.time_s == [0.0, 3.0, 6.0, 9.0, 12.0]
    assert found.series.steps == [0, 1, 2, 3, 4]
    assert len(set(found.series.tensors_bytes[1:])) == 1  # though an epoch's last batch is small
    assert found.series.reserved_bytes == []


def test_a_training_that_is_shorter_is_judged_at_its_end():
    found, trainer = watch(KeepsTensors(), duration_s=10_000, threshold_mib=1, steps=40)
    assert trainer.global_step == 40
    assert [growth.kind for growth in found.growth] == ["leak"]
    assert found.sites == []  # there was no time to look for lines


def test_nothing_of_it_stays_behind():
    frozen = gc.get_freeze_count()
    watch(KeepsTensors(), duration_s=30, threshold_mib=1)
    assert gc.isenabled()
    assert gc.get_debug() == 0
    assert not tracemalloc.is_tracing()
    assert frozen == 0 or gc.get_freeze_count() > 0  # what was frozen before stays so


def test_a_fit_that_fails_in_mid_watch_stops_tracing():
    class Fails(KeepsArrays):
        def leak(self, loss):
            super().leak(loss)
            if len(self.kept) == 55:
                raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        watch(Fails(), duration_s=60, threshold_mib=4)
    assert not tracemalloc.is_tracing()
    assert gc.isenabled()


def test_a_fit_that_another_callback_ends_in_mid_watch_stops_tracing():
    class Ends(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 55:
                raise _TunerExitException

    clock, module = Clock(), KeepsArrays()
    frozen = gc.get_freeze_count()
    watching = LeakWatch(60, 4, clock=clock)
    loader = DataLoader(TensorDataset(torch.randn(560, 8), torch.arange(560) % 4), 8)
    trainer_with(watching, Ticks(clock), Ends()).fit(module, loader)
    assert len(module.kept) == 55
    assert not tracemalloc.is_tracing()
    assert frozen or not gc.get_freeze_count()


def test_the_training_goes_on_where_it_is_only_watched():
    clock = Clock()
    watching = LeakWatch(10, 1, clock=clock)
    loader = DataLoader(TensorDataset(torch.randn(64, 8), torch.arange(64) % 4), 2)
    trainer = trainer_with(watching, Ticks(clock))
    trainer.fit(Module(), loader)
    assert trainer.global_step == 32
    assert watching.series.time_s[-1] <= 11


@pytest.mark.parametrize("values", [(0, 1), (1, 0), (float("nan"), 1)])
def test_times_and_thresholds_are_above_zero(values):
    with pytest.raises(InputError, match="above 0"):
        LeakWatch(*values)
