"""Processes that a forked command keeps ready to become its ranks, folds and jobs.

They are forked before the command does anything, know nothing of it, and are its children. A
`Popen` of `python -m gpuopt.NAME` takes one of them instead of a new interpreter; any other, or
one more than were kept, is started as ever.
"""

import contextlib
import ctypes
import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PICTURES", "VARIABLE", "Popen", "Start", "keep", "set_name"]

VARIABLE = "GPUOPT_TEST_SPARES"  # how many each command keeps
PICTURES = "GPUOPT_TEST_PICTURES"  # set, a command draws the pictures of its runs
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h
_REQUEST_BYTES = 1 << 18
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_PARAMETERS = tuple(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]


@dataclass(frozen=True)
class Start:
    """What a new process would get from `exec`."""

    module: str
    words: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class _Request:
    start: Start
    new_session: bool
    process_group: int  # -1: its parent's
    umask: int
    ignored: tuple[int, ...]
    blocked: tuple[int, ...]
    prepare: Callable[[], None] | None  # Popen's preexec_fn


_kept: list[tuple[int, socket.socket]] = []  # process number, and how to reach it


def keep(count: int, become: Callable[[Start], None]) -> None:
    """Fork processes that wait until they are needed, and end with this one."""
    parent = os.getpid()
    for _ in range(count):
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            here.close()
            for _, other in _kept:
                other.close()
            _kept.clear()
            _wait(there, parent, become)
        there.close()
        _kept.append((pid, here))


def set_name(name: str) -> None:
    """Name this process in /proc/PID/comm, where its words would still be its parent's."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())  # its first 15 bytes


def _wait(there: socket.socket, parent: int, become: Callable[[Start], None]) -> None:
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(0)
    set_name("spare")
    with contextlib.suppress(KeyboardInterrupt):
        data, files, _, _ = socket.recv_fds(there, _REQUEST_BYTES, 3)
        if data:
            request = pickle.loads(data)
            prctl(_PR_SET_PDEATHSIG, 0)
            _take_over(request, files)
            there.send(b"!")
            there.close()
            become(request.start)
    os._exit(0)


def _take_over(request: _Request, files: Sequence[int]) -> None:
    """Do what lies between `fork` and `exec`."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if request.new_session:
        os.setsid()
    if request.process_group >= 0:
        os.setpgid(0, request.process_group)
    os.umask(request.umask)
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    os.chdir(request.start.cwd)
    if request.prepare is not None:
        request.prepare()


class Popen(subprocess.Popen):
    """`subprocess.Popen`, which takes a spare process where one will do."""

    def _execute_child(self, *arguments: Any) -> None:
        options = dict(zip(_PARAMETERS, arguments, strict=True))
        start = _as_start(options)
        if start is None or not _kept:
            super()._execute_child(*arguments)
            return
        given = [options[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        files = [number if file == -1 else file for number, file in enumerate(given)]
        umask = os.umask(0o22)
        os.umask(umask)
        request = _Request(
            start=start,
            new_session=options["start_new_session"],
            process_group=options["process_group"],
            umask=umask,
            ignored=_ignored(),
            blocked=tuple(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            prepare=options["preexec_fn"],
        )
        pid, there = _kept.pop(0)
        socket.send_fds(there, [pickle.dumps(request)], files)
        if not there.recv(1):
            raise OSError(f"process {pid}, kept ready, has ended")
        there.close()
        self.pid = pid
        self._child_created = True
        self._close_pipe_fds(*(options[name] for name in _PIPES))


def _as_start(options: Mapping[str, Any]) -> Start | None:
    """Read `python [-u] -m gpuopt.NAME WORDS`; None for anything else."""
    words = options["args"]
    if options["shell"] or options["pass_fds"] or isinstance(words, str | bytes):
        return None
    words = [os.fsdecode(word) for word in words]
    if words[:2] == [sys.executable, "-u"]:
        del words[1]
    if words[:2] != [sys.executable, "-m"] or not words[2].startswith("gpuopt."):
        return None
    environment = os.environ if options["env"] is None else options["env"]
    cwd = options["cwd"] or Path.cwd()
    return Start(words[2], tuple(words[3:]), os.fspath(cwd), dict(environment))


def _ignored() -> tuple[int, ...]:
    """List the signals that a new process would go on to ignore."""
    restored = (signal.SIGPIPE, signal.SIGXFSZ)  # by Popen
    known = signal.valid_signals() - set(restored)
    return tuple(n for n in known if signal.getsignal(n) == signal.SIG_IGN)
