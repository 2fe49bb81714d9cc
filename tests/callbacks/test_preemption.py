import os
import signal
from concurrent.futures import ThreadPoolExecutor

import lightning.pytorch as L
import pytest

from gpuopt.callbacks import DurableCheckpoint, Preemption
from gpuopt.errors import PreemptedError
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.storage.checkpoint_io import DurableCheckpointIO


class Signal(L.Callback):
    """Sends a signal to this process at one moment of training."""

    def __init__(self, hook, step, number=signal.SIGTERM, times=1):
        self.step, self.number, self.times = step, number, times
        setattr(self, hook, self._send)

    def _send(self, trainer, *_):
        if trainer.global_step == self.step and self.times:
            self.times -= 1
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def _handlers():
    """A stop leaves SIGUSR2 ignored, which is nothing for the tests that follow."""
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def interrupted(make_trainer, module, loader, tmp_path):
    def run(*callbacks, **options):
        checkpoint = DurableCheckpoint(tmp_path / "c", every_n_seconds=None)
        trainer = make_trainer(
            *callbacks,
            checkpoint,
            Preemption(checkpoint),
            plugins=[DurableCheckpointIO()],
            **options,
        )
        with pytest.raises(PreemptedError) as caught:
            trainer.fit(module, loader, loader)
        return read_checkpoint(checkpoint.last_path), str(caught.value)

    return run


@pytest.mark.parametrize("number", Preemption.signals)
def test_the_step_is_finished_and_saved(interrupted, number):
    saved, message = interrupted(Signal("on_train_batch_start", 2, number))
    assert saved["global_step"] == 3
    assert signal.Signals(number).name in message
    assert "resume=" in message


def test_an_accumulation_window_is_finished_first(interrupted):
    saved, _ = interrupted(
        Signal("on_train_batch_start", 1), accumulate_grad_batches=3, max_epochs=2
    )
    assert saved["global_step"] == 2
    assert saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1


def test_a_signal_in_validation_stops_after_the_epoch(interrupted):
    saved, _ = interrupted(Signal("on_validation_start", 6))
    assert (saved["global_step"], saved["epoch"]) == (6, 0)


def test_a_second_signal_stops_at_once(interrupted):
    # The first epoch is saved; the signals come in the second.
    class Twice(Signal):
        def _send(self, trainer, *_):
            if trainer.global_step == 8:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    saved, message = interrupted(Twice("on_train_batch_start", 8))
    assert "at once" in message
    assert saved["global_step"] == 6


def test_handlers_are_given_back(interrupted):
    signals = [number for number in Preemption.signals if number != signal.SIGUSR2]
    before = [signal.getsignal(number) for number in signals]
    interrupted(Signal("on_train_batch_start", 2))
    assert [signal.getsignal(number) for number in signals] == before


def test_what_a_launcher_passes_on_late_does_not_kill_a_process_that_has_saved(interrupted):
    class Late(L.Callback):
        def on_exception(self, trainer, *_):
            os.kill(os.getpid(), signal.SIGUSR2)

    _, message = interrupted(Signal("on_train_batch_start", 2), Late())
    assert "saved" in message


def test_what_a_launcher_passes_on_is_no_second_signal(interrupted):
    """A scheduler may tell a rank and its launcher, which tells the rank again."""

    class Both(Signal):
        def _send(self, trainer, *_):
            if trainer.global_step == 2 and self.times:
                self.times -= 1
                for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
                    os.kill(os.getpid(), number)

    saved, message = interrupted(Both("on_train_batch_start", 2))
    assert saved["global_step"] == 3
    assert "at once" not in message


def test_a_training_in_a_thread_runs_without_them(make_trainer, module, loader, tmp_path, caplog):
    checkpoint = DurableCheckpoint(tmp_path / "c")
    trainer = make_trainer(checkpoint, Preemption(checkpoint), max_epochs=1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(trainer.fit, module, loader, loader).result()
    assert trainer.global_step == 6
    assert "no signal stops this training" in caplog.text
