"""A log is complete, or says what is missing; nothing of the user's is lost to it."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from gpuopt.errors import InputError
from gpuopt.telemetry import JsonlLog
from gpuopt.telemetry.record import from_record, to_record
from tests.telemetry.samples import sample


def read(path):
    return [from_record(json.loads(line)) for line in path.read_bytes().splitlines()]


def write(path, *samples):
    log = JsonlLog(path)
    for taken in samples:
        log.write(taken)
    log.close()
    return log


def test_each_sample_is_a_line_in_a_new_folder(tmp_path):
    path = tmp_path / "a/b/log.jsonl"
    log = write(path, sample(0), sample(1))
    assert read(path) == [sample(0), sample(1)]
    assert (log.written, log.lost) == (2, 0)


def test_a_line_is_whole_as_soon_as_it_is_written(tmp_path):
    log = JsonlLog(tmp_path / "log.jsonl")
    log.write(sample(0))
    assert read(tmp_path / "log.jsonl") == [sample(0)]
    log.close()


def test_a_log_is_gone_on_with_and_a_torn_line_ended(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, sample(0), sample(1))
    path.write_bytes(path.read_bytes()[:-40])
    write(path, sample(2))
    first, torn, last, end = path.read_bytes().split(b"\n")
    assert from_record(json.loads(first)) == sample(0)
    with pytest.raises(ValueError, match=r"delimiter|value|Unterminated"):
        json.loads(torn)
    assert from_record(json.loads(last)) == sample(2)
    assert end == b""


def test_a_log_with_nothing_but_a_torn_line_is_gone_on_with(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(json.dumps(to_record(sample())).encode()[:50])
    write(path, sample(2))
    assert from_record(json.loads(path.read_bytes().splitlines()[1])) == sample(2)


@pytest.mark.parametrize(
    "content", [b"my notes\n", b'{"a": 1}\n', b'{"schema": 9}\n', b"[]", b"\n"]
)
def test_another_file_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is no log of gpuopt: name another file"):
        JsonlLog(path)
    assert path.read_bytes() == content


def test_two_monitors_do_not_write_one_log(tmp_path):
    path = tmp_path / "log.jsonl"
    first = JsonlLog(path)
    with pytest.raises(InputError, match="written by another monitor"):
        JsonlLog(path)
    first.write(sample(0))
    first.close()
    write(path, sample(1))
    assert read(path) == [sample(0), sample(1)]


@pytest.mark.parametrize("name", [".", "file/log.jsonl"])
def test_what_cannot_be_written_is_refused_at_once(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"log=.* cannot be written \(.+\): name another file"):
        JsonlLog(tmp_path / name)


def test_a_device_without_an_end_takes_samples():
    log = JsonlLog(Path(os.devnull))
    log.write(sample())
    log.close()
    assert log.written == 1


class FullDisk:
    """Takes some bytes, then is full for as long as it is told."""

    def __init__(self, stream, room):
        self._stream, self.room = stream, room

    def write(self, content):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._stream.write(content[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self._stream, name)


def test_a_full_disk_is_one_warning_and_leaves_whole_lines(tmp_path, caplog):
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path)
    log.write(sample(0))
    log._stream = disk = FullDisk(log._stream, room=100)
    with caplog.at_level(logging.WARNING, "gpuopt"):
        log.write(sample(1))
        log.write(sample(2))
        assert read(path) == [sample(0)]
        disk.room = 10**6
        log.write(sample(3))
        log.close()
    assert read(path) == [sample(0), sample(3)]
    assert (log.written, log.lost, log.reason) == (2, 2, "No space left on device")
    (record,) = caplog.records
    assert "samples are lost (No space left on device)" in record.getMessage()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_real_full_device_loses_samples_and_ends_no_monitor(caplog):
    log = JsonlLog(Path("/dev/full"))
    log.write(sample(0))
    log.close()
    assert (log.written, log.lost) == (0, 1)
