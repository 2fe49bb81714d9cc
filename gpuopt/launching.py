"""The jobs of a sweep by any of Hydra's launchers: ours, or those for joblib and submitit.

A task of theirs starts the process of one job, as our own launcher does; the ranks of the job are
its own affair.
"""

import contextlib
import importlib
import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from gpuopt.endings import explain
from gpuopt.errors import GpuoptError, InputError
from gpuopt.session.sweep_folder import SweepFolder, shown
from gpuopt.session.sweep_jobs import give_up, report, stopped

__all__ = ["check_launcher", "launch", "register_joblib"]

_OWN = "hydra_plugins.gpuopt_sweeps"


def register_joblib() -> None:
    """Let Hydra's joblib launcher run one job at a time, not one per processor, when it is there.

    A file of its name under conf/ would make Hydra warn that its schema is an old custom.
    """
    try:
        config = importlib.import_module("hydra_plugins.hydra_joblib_launcher.config")
    except ModuleNotFoundError:
        return
    node = config.JobLibLauncherConf(n_jobs=1)
    ConfigStore.instance().store(group="hydra/launcher", name="joblib", node=node)


def check_launcher(config: DictConfig) -> None:
    """Refuse what a launcher cannot do here, and say when it would hide the GPUs.

    Args:
        config: All settings that the jobs share, with Hydra's node.

    Raises:
        InputError: When there is no SLURM, or several tasks would each run the same job.
    """
    settings = config.hydra.launcher
    target = str(settings["_target_"])
    if _is_slurms(target) and shutil.which("srun") is None:
        raise InputError(
            "hydra/launcher=submitit_slurm: this machine has no srun; start the sweep on one of "
            "the cluster's"
        )
    for key in ("nodes", "tasks_per_node"):
        if (count := settings.get(key) or 1) != 1:
            raise InputError(
                f"hydra.launcher.{key}={count}: a job is one task, which starts its own ranks; "
                "leave it out and give trainer.devices and hydra.launcher.gpus_per_node"
            )
    asked = any(settings.get(key) for key in ("gpus_per_node", "gpus_per_task", "gres"))
    if "submitit" in target and not asked and config.gpu.name != "cpu":
        count = config.trainer.devices
        sys.stderr.write(
            f"submitit gives jobs no GPU unless asked: add hydra.launcher.gpus_per_node={count}\n"
        )


def launch(
    launcher: Launcher, sweep: SweepFolder, jobs: Sequence[Sequence[str]], first: int
) -> None:
    """Run jobs, and wait for all of them; one that another launcher loses has failed.

    Args:
        launcher: Any.
        sweep: The sweep.
        jobs: The overrides of each.
        first: Number of the first one.

    Raises:
        PreemptedError: When asked to stop; jobs that a cluster has been given go on.
    """
    if type(launcher).__module__ == _OWN:
        launcher.launch(jobs, initial_job_idx=first)
        return
    sys.stdout.write(f"{len(jobs)} jobs start elsewhere, their output is in {shown(sweep.path)}\n")
    sys.stdout.flush()
    try:
        with _waiting_for_all(launcher, sweep, first):
            launcher.launch(jobs, initial_job_idx=first)
    except KeyboardInterrupt as error:
        if not _is_slurms(type(launcher).__name__):
            _stop_all(sweep, str(error) or "Ctrl-C")
        raise stopped(sweep) from None
    except GpuoptError:
        raise
    except Exception as error:  # such as a task of joblib that was killed
        give_up(sweep, explain(error))
    report(sweep)  # its jobs may have printed it elsewhere


def _is_slurms(launcher: str) -> bool:
    return launcher.rpartition(".")[2] == "SlurmLauncher"


def _stop_all(sweep: SweepFolder, reason: str) -> None:
    """Note that the jobs of this machine end with this process, whatever they still manage to say.

    Each is sent SIGTERM when its task is gone, and saves.
    """
    for job in sweep.jobs:
        if job.state == "running":
            sweep.write_job(replace(job, state="stopped", reason=f"by {reason}"))
    report(sweep)


@contextlib.contextmanager
def _waiting_for_all(launcher: Launcher, sweep: SweepFolder, first: int) -> Iterator[None]:
    """Keep submitit's launcher from leaving at the first job that fails, while others run."""
    if "submitit" not in type(launcher).__module__:
        yield
        return
    kind: Any = importlib.import_module("submitit.core.core").Job
    original, numbers = kind.results, itertools.count(first)

    def results(job: Any) -> Any:
        number = next(numbers)  # it asks for one job after another
        try:
            return original(job)
        except Exception as error:
            give_up(sweep, explain(error), only=number)
            return [None]

    kind.results = results
    try:
        yield
    finally:
        kind.results = original
