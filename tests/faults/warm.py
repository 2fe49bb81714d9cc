"""A process that has imported everything and forks one command after another.

A command spends six of its eight seconds on imports. Forked from here it runs the same code with
the same words, environment and signals, and is killed the same way, at a fifth of the time.
Requests and the numbers of the forked processes go through stdin and stdout as lines of JSON.
"""

import atexit
import json
import os
import runpy
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Answer requests until stdin ends; then end what is left."""
    import gpuopt.fold_runs
    import gpuopt.report  # noqa: F401 - the imports are what this is for

    children: dict[int, Path] = {}
    requests = os.fdopen(0, "rb", buffering=0)
    while True:
        if select.select([requests], [], [], 0.02)[0]:
            line = requests.readline()
            if not line:
                break
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _become(request)
            children[pid] = Path(request["status"])
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
        _collect(children)
    for pid in children:
        os.killpg(pid, signal.SIGKILL)


def _collect(children: dict[int, Path]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            path = children.pop(pid)
            staged = path.with_suffix(".new")
            staged.write_text(str(os.waitstatus_to_exitcode(status)))
            staged.rename(path)


def _become(request: dict[str, Any]) -> None:
    """Be the command from here on, as the interpreter would have started it."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    module, *words = request["words"]
    sys.argv = [module, *words]
    from tests.faults.injection import install

    code: Any = 0
    try:
        install()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
