"""Timing real loaders; no test looks at how fast they were."""

import threading
import time
from collections import UserDict

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from gpuopt.tuning import loader_timing
from gpuopt.tuning.loader_setting import LoaderSetting
from gpuopt.tuning.loader_timing import LoaderTiming, batch_bytes_of, read_alone
from gpuopt.tuning.round_clock import RoundLimits

SHORT = RoundLimits(0.0, 1.0, 8)


class Images(Dataset):
    def __init__(self, images=24, wait_s=0.0):
        self.images, self.wait_s = images, wait_s

    def __len__(self):
        return self.images

    def __getitem__(self, row):
        time.sleep(self.wait_s)
        return torch.zeros(3, 8, 8, dtype=torch.uint8), row


def maker(dataset, made=None):
    def make(setting):
        loader = DataLoader(dataset, batch_size=4, **setting.loader_arguments())
        if made is not None:
            made.append(loader)
        return loader

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_a_probe_goes_on_over_epochs_and_leaves_no_process(workers):
    made, taken = [], []
    timing = LoaderTiming(maker(Images(), made), taken.append, limits=SHORT)
    figures = timing.probe(LoaderSetting(workers))
    assert figures.samples_per_second > 0
    assert len(taken) >= 9  # an epoch has six
    workers_left = getattr(made[0]._iterator, "_workers", [])
    assert not any(process.is_alive() for process in workers_left)


def test_a_process_that_waits_wants_little_of_a_processor():
    waiting = read_alone(lambda: maker(Images(wait_s=0.02))(LoaderSetting(1)))
    assert waiting.cpu_ratio < 0.7
    assert waiting.batch_bytes == 4 * (3 * 8 * 8 + 8)
    assert waiting.unevenness >= 1


def test_a_system_that_does_not_tell_counts_as_busy(monkeypatch):
    monkeypatch.setattr(loader_timing, "_children_cpu_s", lambda: None)
    reading = read_alone(lambda: maker(Images())(LoaderSetting(1)))
    assert reading.cpu_ratio == 1.0


def test_it_finds_a_setting_for_anybodys_loader(recwarn):
    probed = []
    result = LoaderTiming(maker(Images(wait_s=0.005)), limits=SHORT).tune(
        demand=500, cpus=1, on_probe=lambda setting, figures: probed.append(setting)
    )
    assert probed == list(result.probes)
    assert result.setting in probed
    assert max(setting.num_workers for setting in probed) > 1  # one processor, and they wait
    assert not [w for w in recwarn if "suggested max number" in str(w.message)]


def test_an_empty_loader_is_said():
    timing = LoaderTiming(maker(Images(0)), limits=SHORT)
    with pytest.raises(ValueError, match="empty"):
        timing.probe(LoaderSetting(0))
    with pytest.raises(ValueError, match="empty"):
        timing.reading()


def test_batches_are_added_up_however_deep():
    batch = {"x": torch.zeros(2, dtype=torch.float32), "y": [(torch.zeros(3, dtype=torch.int8),)]}
    assert batch_bytes_of({**batch, "name": "a"}) == 8 + 3
    assert batch_bytes_of(UserDict(batch)) == 8 + 3  # as a tokenizer returns


def test_no_thread_is_left():
    before = threading.active_count()
    LoaderTiming(maker(Images()), limits=SHORT).probe(LoaderSetting(1))
    assert threading.active_count() <= before + 1  # the queue's, which ends by itself
