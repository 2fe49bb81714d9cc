"""A process that has imported everything and forks one command after another.

A command spends six of its eight seconds on imports. Forked from here it runs the same code with
the same words, environment and signals, and is killed the same way, at a fifth of the time. What
it starts itself, such as its ranks, is forked from the same state: see `spares`. The pictures of a
run, a third of a small one, are drawn where a test asks for them. Called with the word `light` it
has imported what commands need before they know that their input is good: no torch. Requests and
the numbers of the forked processes go through stdin and stdout as lines of JSON.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.faults import spares

__all__ = ["main"]

COMMANDS = ("benchmark", "check", "config", "monitor", "predict", "sweep", "train")
LIGHT = tuple(f"gpuopt.{name}" for name in COMMANDS)
HEAVY = (
    "gpuopt.data.digits",
    "gpuopt.data.documents",
    "gpuopt.data.image_csv",
    "gpuopt.data.image_folder",
    "gpuopt.fold_runs",
    "gpuopt.measure.calibration",
    "gpuopt.report.confusion",
    "gpuopt.report.reliability",
    "gpuopt.report.samples",
    "gpuopt.report.sweep",
    "gpuopt.session.ensemble",
    "gpuopt.session.prediction",
    "gpuopt.session.sweep_jobs",
    "gpuopt.worker",
    "scipy.optimize",
    "torch.distributed.run",
    "torch.utils.tensorboard",
)

subprocess.Popen = spares.Popen  # before others import it by name


def main() -> None:
    """Answer requests until stdin ends; then end what is left."""
    is_light = sys.argv[1:] == ["light"]
    import_for(is_light=is_light)
    _do_what_is_done_once(is_light=is_light)
    _leave_out(is_light=is_light)
    gc.collect()
    gc.freeze()  # forks share this memory for as long as nobody looks at it
    children: dict[int, Path] = {}
    requests = os.fdopen(0, "rb")  # the next request comes after the answer
    while True:
        if select.select([requests], [], [], 0.02)[0]:
            line = requests.readline()
            if not line:
                break
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _begin(request)
            children[pid] = Path(request["status"])
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
        _collect(children)
    for pid in children:
        os.killpg(pid, signal.SIGKILL)


def import_for(*, is_light: bool) -> None:
    """Import what commands will."""
    for module in LIGHT if is_light else (*LIGHT, *HEAVY):
        importlib.import_module(module)
    assert ("torch" in sys.modules) != is_light


def _do_what_is_done_once(*, is_light: bool) -> None:
    """Let libraries do what they do at their first call, such as looking for Hydra's plugins."""
    from gpuopt.config import compose_settings

    compose_settings("train", [])
    if not is_light:
        import torch

        from gpuopt.measure.roofline import cpu_rates, forward_flops

        torch.set_num_threads(1)  # a pool of threads would not be there in a fork
        forward_flops("test_vit", 32)
        cpu_rates()


def _leave_out(*, is_light: bool) -> None:
    """Shorten what takes time and has no effect here."""
    from hydra._internal.hydra import Hydra

    # Hydra composes all settings a first time to read `hydra.mode`, which nobody sets.
    Hydra.get_mode = lambda *_, **__: None
    if not is_light:
        import torch.utils.data

        # How long a loader waits at its end for each process that hangs; 5 seconds by default.
        torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5


def _collect(children: dict[int, Path]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            path = children.pop(pid)
            staged = path.with_suffix(".new")
            staged.write_text(str(os.waitstatus_to_exitcode(status)))
            staged.rename(path)


def _begin(request: dict[str, Any]) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(request["cwd"])
    module, *words = request["words"]
    _become(spares.Start(module, tuple(words), request["cwd"], request["environment"]))


def _become(start: spares.Start) -> None:
    """Be the command from here on, as the interpreter would have started it."""
    os.environ.clear()
    os.environ.update(start.environment)
    spares.set_name(f"rank {start.environment['RANK']}" if _is_rank(start) else start.module)
    if not _is_rank(start):
        spares.keep(int(start.environment.get(spares.VARIABLE, 0)), _become)
    if start.environment.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.path[:0] = filter(None, start.environment.get("PYTHONPATH", "").split(os.pathsep))
    if "torch" in sys.modules:
        _know_the_rank()
    sys.argv = [start.module, *start.words]
    from tests.faults.injection import install

    # A worker is imported for the folds of `gpuopt train`, and run anew here.
    warnings.filterwarnings("ignore", message=".*found in sys.modules after import of package.*")
    code: Any = 0
    try:
        install()
        if "torch" in sys.modules and not start.environment.get(spares.PICTURES):
            _draw_nothing()
        runpy.run_module(start.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _draw_nothing() -> None:
    from gpuopt import worker
    from gpuopt.session import evaluation

    def no_figures(*_: Any) -> dict[str, Any]:
        return {}

    worker.draw_figures = evaluation.draw_figures = no_figures


def _is_rank(start: spares.Start) -> bool:
    return start.module == "gpuopt.worker" and "RANK" in start.environment


def _know_the_rank() -> None:
    """Read the rank again, as Lightning does when it is imported."""
    from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

    rank_zero_only.rank = _get_rank() or 0


if __name__ == "__main__":
    main()
