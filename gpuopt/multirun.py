"""`gpuopt train -m`: every job is a process of its own, and one table compares them.

Whatever launcher Hydra uses, the job's function only starts a process and never raises: a job that
fails, is refused or is killed is a row with its reason, and the others go on.
"""

import importlib
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from gpuopt.endings import REFUSALS, explain
from gpuopt.entry import checked
from gpuopt.errors import PreemptedError
from gpuopt.launching import register_joblib
from gpuopt.run import RunFolder
from gpuopt.session.sweep_folder import SweepFolder
from gpuopt.session.sweep_jobs import carry_out, refuse, stopped

__all__ = ["is_job", "register_sweeps", "run_sweep_job"]

_PLUGINS = Path(__file__).parent / "plugins"
_CLASSES = (
    ("gpuopt_sweeps", "GridSweeper"),
    ("gpuopt_sweeps", "ProcessLauncher"),
    ("gpuopt_optuna", "OptunaSweeper"),
)


def register_sweeps() -> None:
    """Let Hydra find its launcher and sweeper of ours; may be called again."""
    if str(_PLUGINS) not in sys.path:
        sys.path.append(str(_PLUGINS))
    # Hydra looks for plugins once in a process, and may have done so before.
    for module, name in _CLASSES:
        plugin = getattr(importlib.import_module(f"hydra_plugins.{module}"), name)
        Plugins.instance().register(plugin)
    register_joblib()


def is_job() -> bool:
    """Tell whether Hydra calls the task as one job of a sweep."""
    return not OmegaConf.is_missing(HydraConfig.get().job, "num")  # only launchers number jobs


def run_sweep_job(config: DictConfig) -> None:
    """Carry out one job of a sweep in a process of its own; the task under any launcher.

    Ends this process with exit code 75 when it was asked to stop.
    """
    node = HydraConfig.get()
    sweep, number = SweepFolder(Path(node.sweep.dir)), int(node.job.num)
    job = sweep.jobs[number]
    if job.state == "done":
        return
    try:
        if not sweep.settings(number):  # else the job goes on with its own
            settings = checked(config)
            RunFolder(sweep.job_folder(number)).write_config(settings)
    except REFUSALS as error:
        refuse(sweep, job, explain(error))
        return
    if carry_out(sweep, job, debug=bool(config.get("debug"))):
        sys.stderr.write(f"gpuopt train: {stopped(sweep)}\n")
        sys.exit(PreemptedError.exit_code)
