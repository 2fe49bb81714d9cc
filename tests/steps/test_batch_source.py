import lightning.pytorch as L
import pytest

from gpuopt.steps.batch_source import BatchSource
from tests.callbacks.timed_training import parts_of, trainer_with


class Endless(L.Callback):
    """Goes on over the end of the epoch, then holds a batch, then gives back."""

    def __init__(self):
        self.source = None
        self.seen = []
        self.held = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.source is None:
            self.source = BatchSource(trainer)
            return
        self.seen.append(batch[0][:, 0].tolist())
        if len(self.seen) == 7:
            self.held = self.source.held = self.source.load()
        if len(self.seen) == 9:
            self.source.give_back()
            trainer.should_stop = True


@pytest.fixture
def endless():
    module, loader, _, _ = parts_of({}, batch_size=6)  # 6, 6, 6 and 2 of 20
    callback = Endless()
    trainer = trainer_with(callback, max_steps=5)
    trainer.fit(module, loader)
    return callback, trainer


def test_the_epoch_has_no_end_and_the_loader_begins_anew(endless):
    callback, trainer = endless
    rows = [[int(row) for row in rows] for rows in callback.seen]
    assert rows[:4] == [[*range(6, 12)], [*range(12, 18)], [18, 19], [*range(6)]]
    assert callback.source.begun_anew == 2
    assert trainer.current_epoch == 1  # which ended when it was told to


def test_a_held_batch_is_given_again_and_again(endless):
    callback, _ = endless
    held = callback.held[0][:, 0].tolist()
    assert callback.seen[7:] == [held, held]


def test_samples_of_the_loader_are_counted(endless):
    callback, _ = endless
    # Of the batches after the first one: 6, 6, 2, 6, 6, 6, 2, and one that was held.
    assert callback.source.samples == 40


def test_counts_are_given_back(endless):
    _, trainer = endless
    assert trainer.fit_loop.max_batches in (4, float("inf"))
    assert trainer.fit_loop.epoch_loop.max_steps == 5
