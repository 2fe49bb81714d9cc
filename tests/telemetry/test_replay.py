"""A log is shown as it was taken: all samples, in order, at its pace or another."""

import logging
import time

import pytest

from gpuopt.errors import InputError
from gpuopt.telemetry import JsonlLog, Replay
from gpuopt.telemetry.replay import read_log
from tests.telemetry.samples import FULL, card, sample

WAIT_S = 20.0


@pytest.fixture
def log(tmp_path):
    def write(*samples):
        log = JsonlLog(tmp_path / "log.jsonl")
        for taken in samples:
            log.write(taken)
        log.close()
        return log.path

    return write


def play(path, speed=10_000.0, **options):
    replay = Replay(path, speed, **options)
    readers = [replay.subscribe(), replay.subscribe()]
    replay.start()
    played = [list(reader) for reader in readers]
    replay.stop()
    assert played[0] == played[1]
    return played[0]


def test_all_samples_reach_every_reader_in_order(log):
    taken = [sample(number) for number in range(50)]
    assert play(log(*taken)) == taken


def test_samples_come_at_the_pace_of_the_log(log):
    replay = Replay(log(sample(0), sample(1), sample(2)), 10.0)
    reader = replay.subscribe()
    began_s = time.monotonic()
    replay.start()
    assert len(list(reader)) == 3
    assert time.monotonic() - began_s >= 0.2
    replay.stop()


def test_a_long_pause_between_two_monitors_is_shortened(log):
    path = log(sample(0), sample(0, time_s=1_800_000_000.0), sample(0, time_s=5.0))
    assert [taken.number for taken in play(path, 1000.0)] == [0, 1, 2]


def test_stopping_does_not_wait_for_the_next_sample(log):
    replay = Replay(log(sample(0), sample(9)), 1.0)
    reader = replay.subscribe()
    replay.start()
    assert reader.get(WAIT_S) is not None
    replay.stop()
    assert reader.get(WAIT_S) is None
    assert reader.is_ended


def test_stopping_what_was_never_started_ends_its_readers(log):
    replay = Replay(log(sample(0)))
    reader = replay.subscribe()
    replay.stop()
    assert reader.is_ended


def test_some_devices_are_shown(log):
    path = log(sample(0, card(0, **FULL), card(1), card(3)))
    (played,) = play(path, device_ids=[0, 3])
    assert [reading.index for reading in played.devices] == [0, 3]


def test_an_unknown_device_is_one_line(log):
    with pytest.raises(InputError, match=r"gpu_ids: there is no GPU 2 in .*, which has \[0, 1\]"):
        Replay(log(sample(0, card(0), card(1))), device_ids=[1, 2])


def test_torn_and_foreign_lines_are_left_out_and_counted(log, caplog):
    path = log(sample(0), sample(1))
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([b"{", lines[0], b"[" * 100_000, b"\xff", lines[1][:30], lines[1]]))
    with caplog.at_level(logging.WARNING, "gpuopt"):
        assert list(read_log(path)) == [sample(0), sample(1)]
    assert "4 lines are no samples and were left out" in caplog.text


@pytest.mark.parametrize("content", [b"", b"my notes\n", b'{"schema": 2, "time_s": 5}\n'])
def test_a_file_without_samples_is_refused(tmp_path, content):
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(InputError, match="holds no samples of gpuopt's monitor: name its log"):
        Replay(tmp_path / "mine")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"replay=.*none.* cannot be read \(No such file"):
        Replay(tmp_path / "none")
