from types import SimpleNamespace

import pytest
import torch

from gpuopt.callbacks import NsysMarks
from gpuopt.callbacks.step_phases import _TunerExitException


@pytest.fixture
def said(monkeypatch):
    """A GPU that only notes what it is told."""
    words = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: words.append("wait"))
    monkeypatch.setattr("torch.cuda.profiler.start", lambda: words.append("start"))
    monkeypatch.setattr("torch.cuda.profiler.stop", lambda: words.append("stop"))
    monkeypatch.setattr("torch.cuda.nvtx.range_push", words.append)
    monkeypatch.setattr("torch.cuda.nvtx.range_pop", lambda: words.append("pop"))
    return words


def run(marks, steps, accumulates=lambda step: False):
    """Call the hooks as Lightning does."""
    module = SimpleNamespace(device=torch.device("cuda", 0))
    trainer = SimpleNamespace(fit_loop=SimpleNamespace())
    marks.on_train_start(trainer, module)
    for step in range(steps):
        trainer.fit_loop._should_accumulate = lambda step=step: accumulates(step)
        marks.on_train_batch_start(trainer, module, None, step)
        marks.on_before_backward(trainer, module, torch.zeros(()))
        marks.on_after_backward(trainer, module)
        marks.on_train_batch_end(trainer, module, None, None, step)


def test_the_capture_range_holds_the_marked_steps_and_their_phases(said):
    marks = NsysMarks(plain=1, marked=2)
    with pytest.raises(_TunerExitException):
        run(marks, 9)
    phases = ["gpuopt: data", "pop", "gpuopt: forward", "pop", "gpuopt: backward", "pop"]
    optimizer = ["gpuopt: optimizer", "pop"]
    assert said == [
        *("wait", "start", "step 0"),
        *(*phases, *optimizer, "pop", "step 1"),
        *(*phases, *optimizer, "gpuopt: profiler", "wait", "pop", "pop", "stop"),
    ]
    assert marks.marked_steps == 2


def test_ranges_are_closed_when_training_ends_early(said):
    marks = NsysMarks(plain=0, marked=5, stops=False)
    run(marks, 2)
    marks.on_train_end(None, None)
    marks.teardown(None, None, "fit")
    assert said.count("stop") == 1
    pushed = [word for word in said if word not in ("wait", "start", "stop", "pop")]
    assert said.count("pop") == len(pushed)


def test_batches_of_one_step_are_in_one_step(said):
    marks = NsysMarks(plain=0, marked=1)
    with pytest.raises(_TunerExitException):
        run(marks, 4, accumulates=lambda step: step % 2 == 0)
    assert [word for word in said if word.startswith("step")] == ["step 0"]
    assert said.count("gpuopt: forward") == 2


def test_on_a_cpu_there_is_nothing_to_mark(said, make_trainer, module, loader):
    marks = NsysMarks(plain=5, marked=2)
    trainer = make_trainer(marks, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 7
    assert said == []
    assert marks.plain_step_ms > 0
