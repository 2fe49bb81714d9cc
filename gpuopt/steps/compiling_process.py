"""Compile in a process that can be ended at any time: a compiler in this one cannot.

The process leaves its results in PyTorch's caches on disk, from which this one then compiles in a
fraction of the time. `python -m gpuopt.steps.compiling_process FD` is that process: it is told over
a pipe what to compile, answers with None or what failed, and ends when nobody waits any more.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpuopt.errors import one_line
from gpuopt.memory.device_errors import is_out_of_memory

__all__ = ["CompilingProcess", "compiler_words", "import_path", "main"]

_NAME = "gpuopt.steps.compiling_process"
_NO_MEMORY = "memory ran out in the process that compiles, which needs some beside the training"


class CompilingProcess:
    """Compiles a task in a mode, from now on until it is done or ended.

    Args:
        task: A `CompileTask`; its classes have to be importable.
        mode: Of torch.compile.

    Raises:
        Exception: Whatever pickling the task raises.
    """

    def __init__(self, task: Any, mode: str) -> None:
        own, other = Pipe()
        # A session of its own, so that the compilers that it starts can be ended with it. Ctrl-C
        # reaches this process alone, which then ends the other.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _NAME, str(other.fileno())],
            pass_fds=(other.fileno(),),
            stdin=subprocess.PIPE,  # its end tells the process that nobody waits any more
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": import_path()},
        )
        other.close()
        self._connection = own
        try:
            own.send((task, mode))
        except BrokenPipeError:  # it has ended, and `fault` says so
            pass
        except BaseException:
            self.end()
            raise

    @property
    def is_done(self) -> bool:
        """Whether it has answered or ended."""
        return self._connection.poll() or self._process.poll() is not None

    def fault(self) -> str | None:
        """Return what failed, or None; only when it is done."""
        with contextlib.suppress(EOFError, OSError):
            answer: str | None = self._connection.recv()
            return answer
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the process that compiles {how}"

    def end(self) -> None:
        """End it and the compilers that it has started; does nothing when it has ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._connection.close()
        if self._process.stdin is not None:
            self._process.stdin.close()


def compiler_words(error: BaseException) -> str:
    """Word an error of a compiler in one short line; whole programs follow the first ones."""
    lines = str(error).strip().splitlines()
    first = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return one_line(f"{type(error).__name__}: {first}", limit=300)


def import_path() -> str:
    """Word where modules are imported from here, so that the process finds the same ones."""
    return os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)


def main() -> None:
    """Compile what the parent sends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Connection(int(sys.argv[1])) as connection:
        try:
            task, mode = connection.recv()
            task.compile(mode)
        except BaseException as error:
            connection.send(_NO_MEMORY if is_out_of_memory(error) else compiler_words(error))
        else:
            connection.send(None)
    os._exit(0)  # a thread waits for stdin


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent has ended, however it did
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
