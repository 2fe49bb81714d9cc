import math

import pytest

from gpuopt.batch_schedule import BatchSchedule, learning_rate_factor
from gpuopt.errors import InputError


def test_each_size_holds_from_its_epoch_on():
    schedule = BatchSchedule.of(128, {5: 256, 2: 64})
    assert [schedule.at(epoch) for epoch in range(7)] == [128, 128, 64, 64, 64, 256, 256]
    assert schedule.largest == 256
    assert schedule.changes == {2: 64, 5: 256}


def test_epoch_0_may_be_named():
    assert BatchSchedule.of(1, {0: 128, 5: 256}).sizes == {0: 128, 5: 256}
    assert BatchSchedule.of(7, None).sizes == {0: 7}


@pytest.mark.parametrize("epochs", [1, 2, 3, 6])
def test_steps_are_counted_epoch_by_epoch(epochs):
    schedule = BatchSchedule.of(100, {2: 30, 5: 7})
    counted = sum(math.ceil(257 / schedule.at(epoch)) for epoch in range(epochs))
    assert schedule.steps(257, epochs) == counted


def test_epochs_that_json_made_words_are_numbers():
    assert BatchSchedule.of(8, {"3": 16}).changes == {3: 16}


@pytest.mark.parametrize("changes", [{-1: 8}, {"x": 8}, {1.5: 8}, {1: 0}, {1: "many"}, {True: 8}])
def test_what_is_no_epoch_or_size_is_refused(changes):
    with pytest.raises(InputError, match="global_batch_schedule"):
        BatchSchedule.of(8, changes)


def test_rules():
    assert learning_rate_factor("none", 256, 64) == 1.0
    assert learning_rate_factor("linear", 256, 64) == 4.0
    assert learning_rate_factor("sqrt", 256, 64) == 2.0
    with pytest.raises(InputError, match="learning_rate_rule=cubic is not one of none, linear"):
        learning_rate_factor("cubic", 1, 1)
