"""Signals, clocks, second owners, loader processes and losses that go wrong in a real command."""

import os
import signal
import time

import pytest

from tests.faults.commands import fault
from tests.faults.conftest import BUSY
from tests.faults.fingerprint import fingerprint

WORDS = (*BUSY, "num_workers=0")


@pytest.fixture(scope="module")
def whole(warm, tiny, tmp_path_factory):
    """The fingerprint of a run that nothing disturbs."""
    from tests.faults.commands import Command

    folder = tmp_path_factory.mktemp("whole")
    end = Command("gpuopt.train", *tiny, *WORDS, "run=run", cwd=folder, warm=warm).end()
    assert end.code == 0, end.stderr
    return fingerprint(folder / "run")


@pytest.fixture
def resumed(start_train, tmp_path):
    """Finish the run, and return its fingerprint."""

    def resume():
        end = start_train(tmp_path, *WORDS, "run=run", "resume=true").end()
        assert end.code == 0, end.stderr
        return fingerprint(tmp_path / "run")

    return resume


@pytest.mark.parametrize("point", ["training step", "validation", "saving", "first batch"])
def test_stopped_at_any_point_it_saves_and_resumes(point, start_train, tmp_path, resumed, whole):
    stop = fault(point, "stop", call=2)
    end = start_train(tmp_path, *WORDS, "run=run", faults=(stop,)).end()
    assert end.code == 75, end.stderr
    assert "go on with resume=" in end.last_line
    assert "saved" in end.last_line
    assert resumed() == whole


@pytest.mark.parametrize("point", ["starting", "testing", "writing results"])
def test_stopped_outside_of_training_it_says_how_to_go_on(
    point, start_train, tmp_path, resumed, whole
):
    stop = fault(point, "stop")
    end = start_train(tmp_path, *WORDS, "run=run", faults=(stop,)).end()
    assert end.code == 75, end.stderr
    assert "go on with resume=" in end.last_line
    assert resumed() == whole


def test_ctrl_c_twice_stops_at_once(start_train, tmp_path, resumed, whole):
    """The first one cannot be heeded: validation hangs."""
    here = tmp_path / "here"
    faults = (fault("validation", "hang"), fault("validation", "mark", path=here))
    command = start_train(tmp_path, *WORDS, "run=run", faults=faults)
    command.wait_until(here.exists)
    time.sleep(0.2)
    command.send(signal.SIGINT)
    command.wait_until(lambda: "again: at once" in command.said())
    command.send(signal.SIGINT)
    end = command.end(limit_s=10)
    assert end.code == 75
    assert "at once" in end.last_line
    assert resumed() == whole


def test_a_run_that_sleeps_goes_on_where_it_was(start_train, tmp_path, whole):
    """SIGSTOP and SIGCONT, as Ctrl-Z, a laptop's lid or a batch system send them."""
    here = tmp_path / "here"
    mark = fault("training step", "mark", call=6, path=here)
    command = start_train(tmp_path, *WORDS, "num_workers=2", "run=run", faults=(mark,))
    command.wait_until(here.exists)
    command.send(signal.SIGSTOP)
    time.sleep(1.5)
    assert command.code() is None
    command.send(signal.SIGCONT)
    end = command.end()
    assert end.code == 0, end.stderr
    assert fingerprint(tmp_path / "run") == whole


def test_a_clock_that_jumps_back_changes_nothing(start_train, tmp_path, whole):
    """Before and after a kill; the files of the first attempt come from the future then."""
    jump, death = fault("training step", "turn the clock back", call=4), fault("end of epoch")
    end = start_train(tmp_path, *WORDS, "run=run", faults=(jump, death)).end()
    assert end.code == -9, end.stderr
    tomorrow = time.time() + 86400
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    end = start_train(
        tmp_path, *WORDS, "run=run", "resume=true", faults=(fault("end of epoch", call=2),)
    ).end()
    assert end.code == -9, end.stderr
    end = start_train(tmp_path, *WORDS, "run=run", "resume=true").end()
    assert end.code == 0, end.stderr
    assert "resuming from" in end.stderr
    assert fingerprint(tmp_path / "run") == whole


def test_of_two_that_start_in_one_folder_one_trains(start_train, tmp_path, whole):
    both = [start_train(tmp_path, *WORDS, "run=run") for _ in range(2)]
    ends = sorted((command.end() for command in both), key=lambda end: end.code)
    assert [end.code for end in ends] == [0, 2], [end.stderr for end in ends]
    assert "run" in ends[1].last_line
    assert fingerprint(tmp_path / "run") == whole


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("kill", ["worker was killed by signal"]),
        ("hang", ["stopped answering", "data.worker_timeout_s"]),
        ("raise", ["RuntimeError", "a fault of the test"]),
    ],
)
def test_a_loader_process_that_fails_ends_the_run_in_one_line(
    do, words, start_train, tmp_path, resumed, whole
):
    """Killed and hanging ones are faults of the machine; one that raises is a bug, and is said."""
    broken = fault("reading an image", do, call=3)
    options = ("num_workers=2", "data.worker_timeout_s=2", "run=run")
    command = start_train(tmp_path, *WORDS, *options, faults=(broken,))
    end = command.end()
    assert end.code == (1 if do == "raise" else 3), end.stderr
    assert all(word in end.last_line for word in words), end.last_line
    command.wait_for_orphans()
    assert resumed() == whole


def test_a_loss_that_is_not_finite_stops_before_it_is_learnt(start_train, tmp_path, resumed, whole):
    end = start_train(
        tmp_path, *WORDS, "run=run", faults=(fault("training step", "nan", call=9),)
    ).end()
    assert end.code == 3, end.stderr
    assert "loss" in end.last_line
    assert "bad_batch.json" in end.last_line
    assert (tmp_path / "run/bad_batch.json").exists()
    assert resumed() == whole


def test_memory_that_suffices_for_nothing_ends_in_one_line(start_train, tmp_path, resumed, whole):
    """Exit code 3, the table of who holds it, and a checkpoint of the step that failed."""
    gone = fault("training step", "run out of memory", call=9, lasting=True)
    end = start_train(tmp_path, *WORDS, "run=run", faults=(gone,)).end()
    assert end.code == 3, end.stderr
    for words in ("with 1 sample at step 4", "saved", "last.ckpt", "out_of_memory.json"):
        assert words in end.last_line, end.last_line
    assert "optimizer" in end.stderr
    assert (tmp_path / "run/out_of_memory.json").exists()
    assert resumed() == whole
