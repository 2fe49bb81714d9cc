import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch.utilities.combined_loader import _shutdown_workers_and_reset_iterator

from gpuopt.data import (
    ArrayImages,
    Batch,
    EvaluationSampler,
    GlobalWindowSampler,
    ImageDataset,
    Split,
    WindowLoader,
    loader,
    loader_fault,
)
from gpuopt.errors import FaultError

COUNT = 30


class Faulty(ArrayImages):
    """Images of which reading one row fails, hangs or kills the process."""

    def __init__(self, images, fault, row=17):
        super().__init__(images)
        self.fault, self.row = fault, row

    def read(self, rows):
        if self.row in rows:
            self.fault()
        return super().read(rows)


# Tests here kill and stall worker processes. What PyTorch's iterators raise while they are being
# collected reaches whichever test runs next; it was seen once in about twenty runs.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(3)


def refuse():
    raise FaultError("17.png cannot be read any more (truncated): restore it")


def bug():
    raise RuntimeError("some bug")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 3, 8, 8), dtype=np.uint8)


def split(store):
    ids = [f"{row}.png" for row in range(COUNT)]
    return Split(ids, np.arange(COUNT) % 3, store, np.arange(COUNT))


def windows(store, workers=0, **options):
    sampler = GlobalWindowSampler(
        np.ones(COUNT), 8, 3, seed=1, mixup_alpha=1.0, image_size=8, shuffle=True
    )
    dataset = ImageDataset(split(store), seed=1)
    return WindowLoader(dataset, sampler, num_workers=workers, **options)


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_the_shapes_and_types_of_the_contract(images, workers):
    for batch in windows(ArrayImages(images), workers):
        assert isinstance(batch, Batch)
        count = len(batch.images)
        expected = {
            "images": (torch.uint8, (count, 3, 8, 8)),
            "targets": (torch.int64, (count,)),
            "ids": (torch.int64, (count,)),
            "weights": (torch.float32, (count,)),
            "partner_targets": (torch.int64, (count,)),
            "mix_ratios": (torch.float32, (count,)),
            "partner_images": (torch.uint8, (count, 3, 8, 8)),
            "boxes": (torch.int64, (count, 4)),
            "uniforms": (torch.float32, (count, 12)),
        }
        found = {name: (t.dtype, tuple(t.shape)) for name, t in batch._asdict().items()}
        assert found == expected
        assert np.array_equal(batch.images, images[batch.ids])
        assert np.array_equal(batch.targets, batch.ids % 3)


def test_workers_change_nothing(images):
    assert_same(list(windows(ArrayImages(images))), list(windows(ArrayImages(images), 2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_differ_and_repeat(images, workers):
    made = windows(ArrayImages(images), workers)
    epochs = []
    for epoch in (0, 1, 0):
        made.sampler.set_epoch(epoch)
        epochs.append(list(made))
    assert_same(epochs[0], epochs[2])
    assert not torch.equal(epochs[0][0].ids, epochs[1][0].ids)
    uniforms = [
        {int(i): u for batch in epoch for i, u in zip(batch.ids, batch.uniforms, strict=True)}
        for epoch in epochs
    ]
    assert all(torch.equal(uniforms[0][i], uniforms[2][i]) for i in range(COUNT))
    assert not any(torch.equal(uniforms[0][i], uniforms[1][i]) for i in range(COUNT))


@pytest.mark.parametrize("workers", [0, 2])
def test_starts_in_the_middle_once(images, workers):
    whole = list(windows(ArrayImages(images), workers))
    made = windows(ArrayImages(images), workers)
    made.sampler.start_at(4)
    iter(made)  # Lightning tries whether it can iterate
    assert_same(list(made), whole[4:])
    assert_same(list(made), whole)
    assert len(made) == len(whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_used(images, workers):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    list(windows(ArrayImages(images), workers))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()


def test_lightning_takes_it_for_resumable(images):
    made = windows(ArrayImages(images))
    assert isinstance(made, _Stateful)
    made.load_state_dict(made.state_dict())


def test_evaluation_batches_are_neutral(images):
    sampler = EvaluationSampler(COUNT, 7, rank=1, world_size=4)
    batches = list(WindowLoader(ImageDataset(split(ArrayImages(images)), 0), sampler))
    for batch in batches:
        assert batch.partner_images.shape == (0, 3, 8, 8)
        assert torch.equal(batch.partner_targets, batch.targets)
        assert (batch.mix_ratios == 1).all()
        assert (batch.uniforms == 0).all()
    weights = torch.cat([batch.weights for batch in batches])
    assert weights.sum() == 8  # rows 1, 5, ..., 29
    assert len(weights) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_closed_loader_can_be_used_again(images, workers):
    made = windows(ArrayImages(images), workers)
    iterator = iter(made)
    next(iterator)
    processes = made._iterator._workers if workers else []
    made.close()
    assert not any(process.is_alive() for process in processes)
    assert_same(list(made), list(windows(ArrayImages(images))))


@pytest.mark.parametrize("end", [WindowLoader.close, _shutdown_workers_and_reset_iterator])
def test_workers_that_do_not_end_are_killed(images, monkeypatch, end):
    """By a command, or by Lightning at the end of training."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    made = windows(ArrayImages(images), 2)
    batches = iter(made)
    next(batches)
    workers = made._iterator._workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)  # it answers nothing but SIGKILL
    try:
        end(made)
        assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * 2
    finally:
        for worker in workers:
            worker.kill()


@pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal"
)
def test_a_worker_ends_on_sigterm_from_its_parent_with_0(images):
    """PyTorch takes any other end for a failure, and says so wherever the parent happens to be."""
    made = windows(ArrayImages(images), 1)
    batches = iter(made)
    next(batches)
    worker = made._iterator._workers[0]
    worker.terminate()
    worker.join(30)
    made.close()
    assert worker.exitcode == 0


def test_pinning_is_ignored_without_cuda(images, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert len(list(windows(ArrayImages(images), pin_memory=True))) == 11


def test_killed_worker_ends_in_one_line(images):
    with pytest.raises(FaultError, match=r"worker was killed.*num_workers") as caught:
        list(windows(Faulty(images, kill), workers=2))
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()  # the others have been stopped, too


def test_hanging_worker_ends_in_one_line(images):
    with pytest.raises(FaultError, match=r"stopped answering.*worker_timeout_s"):
        list(windows(Faulty(images, hang), workers=1, timeout_s=1.0))


def test_slow_worker_is_waited_for(images, monkeypatch):
    monkeypatch.setattr(loader, "_POLL_S", 0.2)
    slow = Faulty(images, lambda: time.sleep(0.7))
    for timeout_s in (0.0, 60.0):
        found = list(windows(slow, workers=1, timeout_s=timeout_s))
        assert_same(found, list(windows(ArrayImages(images))))


def test_killed_worker_is_noticed_without_the_signal(images, monkeypatch):
    """The signal may reach another thread than the one that waits for the batch."""
    monkeypatch.setattr(loader, "_POLL_S", 0.5)
    list(windows(ArrayImages(images), workers=1))  # PyTorch sets its handler once
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with pytest.raises(FaultError, match="worker was killed"):
            list(windows(Faulty(images, kill), workers=1, timeout_s=100_000.0))
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset by peer"), EOFError()])
def test_a_worker_that_dies_while_its_batch_is_fetched_ends_in_one_line(images, monkeypatch, error):
    """What the exchange of file descriptors raises then, before PyTorch looks for dead workers."""
    watched = windows(ArrayImages(images), workers=1)

    def fetch(batches):
        raise error

    monkeypatch.setattr(watched, "_next", fetch)
    with pytest.raises(FaultError, match=r"worker was killed while.*num_workers"):
        list(watched)
    alone = windows(ArrayImages(images))
    monkeypatch.setattr(alone, "_next", fetch)
    with pytest.raises(type(error)):  # without workers it is something else
        list(alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_vanished_file_is_named_in_one_line(images, workers):
    with pytest.raises(FaultError) as caught:
        list(windows(Faulty(images, refuse), workers))
    assert str(caught.value) == "17.png cannot be read any more (truncated): restore it"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_stays_a_bug(images, workers):
    with pytest.raises(RuntimeError, match="some bug"):
        list(windows(Faulty(images, bug), workers))


def test_only_loader_faults_are_reworded():
    assert loader_fault(ValueError("DataLoader timed out")) is None
    assert loader_fault(RuntimeError("CUDA out of memory")) is None
    signal_handler = RuntimeError(
        "DataLoader worker (pid 123) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory."
    )
    assert "signal Bus error" in str(loader_fault(signal_handler))
    exited = RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly")
    assert "was killed:" in str(loader_fault(exited))
