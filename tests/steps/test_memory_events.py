"""Memory events of ranks that train together: each keeps its own, the first one shows all."""

import json
from types import SimpleNamespace

import pytest

from gpuopt.steps.event_file import read_events, write_events
from gpuopt.steps.memory_events import MemoryEvents


class Logger:
    def __init__(self):
        self.logged = []

    def log_metrics(self, values, step):
        self.logged.append((step, values))


def trainer(folder, rank, step=0, world_size=2, epoch=0):
    return SimpleNamespace(
        default_root_dir=str(folder),
        global_rank=rank,
        is_global_zero=rank == 0,
        world_size=world_size,
        global_step=step,
        current_epoch=epoch,
        loggers=[Logger()],
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=step)),
    )


def noted(folder, rank, *steps, kind="out_of_memory", phase="forward pass"):
    events = MemoryEvents()
    for step in steps:
        events.note(trainer(folder, rank, step), kind, phase, 8, 4)
    return events


def seen(events, where):
    return [(event["rank"], event["step"]) for event in events.of_all_ranks(where)]


def test_the_first_rank_sees_the_events_of_all(tmp_path):
    own = noted(tmp_path, 0, 4)
    noted(tmp_path, 1, 2, 7)
    first = trainer(tmp_path, 0, 9)
    assert seen(own, first) == [(1, 2), (0, 4), (1, 7)]
    own.log_others(first)
    assert first.loggers[0].logged == [
        (step, {"memory/rank1/micro_batch_size": 4}) for step in (2, 7)
    ]
    second = trainer(tmp_path, 1, 9)
    own.log_others(second)
    assert second.loggers[0].logged == []


def test_a_resumed_rank_takes_up_its_own_events_until_the_checkpoint(tmp_path):
    noted(tmp_path, 1, 2, 5, 7)
    resumed = MemoryEvents()
    resumed.begin(trainer(tmp_path, 1, 5), is_resumed=True)
    assert [event["step"] for event in resumed.entries] == [2]  # 5 is going to be done again
    first = MemoryEvents()
    first.entries = [{"event": "grow", "rank": 0, "step": 1}]  # from the checkpoint
    first.begin(trainer(tmp_path, 0, 5), is_resumed=True)
    assert seen(first, trainer(tmp_path, 0, 5)) == [(0, 1), (1, 2)]
    resumed.note(trainer(tmp_path, 1, 6), "grow", "training", 4, 8)
    assert seen(first, trainer(tmp_path, 0, 6)) == [(0, 1), (1, 2), (1, 6)]


@pytest.mark.parametrize(("kind", "phase"), [("give_up", "backward pass"), ("grow", "validation")])
def test_what_ended_a_run_or_lies_between_two_steps_is_not_repeated(tmp_path, kind, phase):
    noted(tmp_path, 1, 5, kind=kind, phase=phase)
    resumed = MemoryEvents()
    resumed.begin(trainer(tmp_path, 1, 5), is_resumed=True)
    assert [event["event"] for event in resumed.entries] == [kind]


def test_a_new_run_in_the_same_folder_begins_with_nothing(tmp_path):
    noted(tmp_path, 1, 2)
    anew = MemoryEvents()
    anew.begin(trainer(tmp_path, 1), is_resumed=False)
    assert anew.entries == []
    assert seen(MemoryEvents(), trainer(tmp_path, 0)) == []


@pytest.mark.parametrize(
    "content", ["", "[1]", json.dumps({"schema": 2, "rank": 1, "events": []}), '{"schema": 1}']
)
def test_a_file_of_another_kind_is_neither_read_nor_removed(tmp_path, content):
    path = tmp_path / "memory_events.rank1.json"
    path.write_text(content)
    assert read_events(trainer(tmp_path, 1), 1) is None
    MemoryEvents().begin(trainer(tmp_path, 1), is_resumed=False)
    assert path.read_text() == content


def test_a_process_that_is_alone_writes_no_file(tmp_path):
    events = MemoryEvents()
    events.note(trainer(tmp_path, 0, world_size=1), "grow", "training", 4, 8)
    events.begin(trainer(tmp_path, 0, world_size=1), is_resumed=True)
    assert len(events.entries) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_ends_no_training(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert not write_events(trainer(tmp_path / "file", 1), [])
    assert "memory events cannot be written" in caplog.text


def test_events_of_a_run_that_had_one_process_stay_when_more_resume_it(tmp_path):
    alone = trainer(tmp_path, 0, 3, world_size=1)
    events = MemoryEvents()
    events.note(alone, "out_of_memory", "forward pass", 8, 4)
    noted(tmp_path, 1, 5)
    first = trainer(tmp_path, 0, 9)
    events.log_others(first)
    assert [step for step, _ in first.loggers[0].logged] == [5]
    assert [event["step"] for event in events.of_all_ranks(first)] == [3, 5]


def test_events_without_their_numbers_are_not_believed(tmp_path):
    path = tmp_path / "memory_events.rank1.json"
    path.write_text(json.dumps({"schema": 1, "rank": 1, "events": [{"rank": 1, "epoch": 0}]}))
    assert read_events(trainer(tmp_path, 1), 1) is None
    assert noted(tmp_path, 0, 4).of_all_ranks(trainer(tmp_path, 0))[0]["step"] == 4
