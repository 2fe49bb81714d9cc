"""Killed at any moment, again and again, and resumed: the run ends with the same bits.

Each case is interrupted at two named points and at one random time (seeded), then finished. The
soak (`make soak`) does the same with two ranks, more cases and 200 kills.
"""

import random
import time

import pytest

from tests.faults.commands import fault
from tests.faults.conftest import BUSY
from tests.faults.fingerprint import fingerprint

AVERAGED = "callbacks.moving_average.enabled=true"
MIXED = "data.mixup_alpha=0.4"
ONE = ("micro_batch_size=128", "global_batch_size=128")
THREE = ("micro_batch_size=32", "global_batch_size=96")

# Each point of `injection.POINTS` at which a run can die is in one case at least.
CASES = {
    "plain": (
        ("num_workers=0", *ONE),
        (fault("writing a file", "half", call=4), fault("end of epoch", call=1)),
    ),
    "workers": (
        ("num_workers=2", *ONE),
        (fault("vouching", call=3), fault("training step", call=7)),
    ),
    "averaged": (
        ("num_workers=0", AVERAGED, *ONE),
        (fault("validation", call=2), fault("syncing the folder", call=5)),
    ),
    "accumulated": (
        ("num_workers=0", *THREE),
        # Lightning miscounts from the second resume on when the last batch of an epoch was saved.
        (fault("validation", call=1), fault("keeping the one before", call=2)),
    ),
    "everything": (
        ("num_workers=2", AVERAGED, MIXED, *THREE),
        (fault("end of epoch", call=2), fault("validation", call=3)),
    ),
    "mixed": (
        ("num_workers=0", MIXED, *ONE),
        (fault("saving", call=3), fault("reading a checkpoint"), fault("first batch", call=4)),
    ),
    "after training": (
        ("num_workers=0", AVERAGED, *THREE),
        (fault("testing"), fault("writing results"), fault("starting")),
    ),
    "folds": (
        ("folds=2", "num_workers=0", AVERAGED, *ONE),
        (fault("writing results"), fault("training step", call=9)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_it_ends_with_the_same_bits(name, start_train, tmp_path):
    words, faults = CASES[name]
    began = time.monotonic()
    whole = start_train(tmp_path, *BUSY, *words, "run=whole").end()
    duration_s = time.monotonic() - began
    assert whole.code == 0, whole.stderr
    words = (*BUSY, *words, "run=parts")
    for number, planned in enumerate(faults):
        command = start_train(tmp_path, *words, faults=(planned,))
        words = (*words, "resume=true") if number == 0 else words
        end = command.end()
        assert end.code == -9, (planned, end)
        command.wait_for_orphans()
    at_random = start_train(tmp_path, *words)
    time.sleep(random.Random(name).uniform(0.2, 0.8) * duration_s)
    if at_random.code() is None:  # else it was faster than the undisturbed one
        at_random.send(9)
    assert at_random.end().code in (-9, 0)
    last = start_train(tmp_path, *words).end()
    assert last.code == 0, last.stderr
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    assert not list((tmp_path / "parts").rglob("*.new")), "left from a save that was cut off"
