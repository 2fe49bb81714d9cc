"""Which of several ends is the reason, and how it is worded."""

import pytest

from gpuopt.errors import FaultError, GpuoptError, InputError, PreemptedError
from gpuopt.parallel.ranks import _as_error, _End


def end(rank, code, message=""):
    return _End(rank, 4000 + rank, code, message, "")


@pytest.mark.parametrize(
    ("reason", "consequence"),
    [
        (end(1, -9), end(0, 1, "RuntimeError: connection closed by peer")),
        (end(1, -9), end(0, 75, "stopped by SIGTERM")),
        (end(1, 3, "the disk is full"), end(0, 1, "RuntimeError: connection closed by peer")),
        (end(1, 2, "no such image"), end(0, 75, "stopped")),
        (end(1, 75, "stopped by SIGTERM"), end(0, 1, "RuntimeError: connection closed by peer")),
        (end(1, -11), end(0, 3, "lost")),
    ],
)
def test_the_reason_is_told_from_what_follows(reason, consequence):
    assert min((consequence, reason), key=lambda e: e.urgency) is reason


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        (end(1, -9), FaultError, "rank 1 (process 4001) was killed by SIGKILL"),
        (end(0, -15), PreemptedError, "rank 0 was stopped by SIGTERM"),
        (end(1, 2, "no such image"), InputError, "no such image"),
        (end(1, 3, "disk is full"), FaultError, "disk is full"),
        (end(0, 75, "stopped by SIGTERM"), PreemptedError, "stopped by SIGTERM"),
        (end(1, 1, "ValueError: odd"), GpuoptError, "rank 1 ended with exit code 1: ValueError"),
        (end(1, 3), GpuoptError, "rank 1 ended with exit code 3: see its log"),
    ],
)
def test_every_end_becomes_one_error(tmp_path, how, kind, words):
    error = _as_error(how, tmp_path)
    assert type(error) is kind
    assert str(error).startswith(words)
    assert str(tmp_path) in str(error) or how.message
