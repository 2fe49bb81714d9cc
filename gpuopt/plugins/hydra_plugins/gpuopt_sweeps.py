"""Hydra's sweeper and launcher of `gpuopt train -m`.

Hydra instantiates plugins of the package `hydra_plugins` only, which any distribution may extend;
`gpuopt.multirun.register_sweeps` puts this folder's part of it on the path.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from gpuopt.endings import REFUSALS, explain
from gpuopt.launching import check_launcher, launch
from gpuopt.parallel import StopRequest
from gpuopt.session.sweep_folder import SweepFolder
from gpuopt.session.sweep_jobs import conclude, refuse, stopped
from gpuopt.session.sweep_words import without_folder
from gpuopt.storage import FolderLock

__all__ = ["GridSweeper", "ProcessLauncher"]


class GridSweeper(Sweeper):
    """Expands the command line into jobs, and ends with one line about all of them.

    Unlike Hydra's own, it leaves a job that cannot be composed to the launcher.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what `sweep` needs.

        Raises:
            InputError: When the launcher cannot run such jobs.
        """
        check_launcher(config)
        self.config, self._context = config, hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs that are not done.

        Raises:
            InputError: When every job was refused, or another process sweeps here.
            PreemptedError: When it was asked to stop.
            FaultError: When some job did not end well.
        """
        assert self.config is not None
        folder = SweepFolder(Path(self.config.hydra.sweep.dir))
        if not folder.exists:
            jobs = self._expand(arguments)
            if not isinstance(self._launcher, ProcessLauncher):
                self._compose_all(jobs)  # other launchers stop at a job that does not compose
            folder.start(without_folder(sys.argv[1:]), jobs)
        with FolderLock(folder.path):
            launch(self._launcher, folder, [list(job.overrides) for job in folder.jobs], 0)
        conclude(folder)

    def _expand(self, arguments: list[str]) -> list[list[str]]:
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(arguments), None)
        return jobs

    def _compose_all(self, jobs: Sequence[Sequence[str]]) -> None:
        loader: Any = self._context.config_loader
        for overrides in jobs:
            loader.load_sweep_config(self.config, list(overrides))


class ProcessLauncher(Launcher):
    """Runs the jobs one after another; a job that cannot be composed is a refused one."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what `launch` needs."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Compose and run every job.

        Raises:
            PreemptedError: When a signal came between two jobs.
        """
        setup_globals()
        sweep = SweepFolder(Path(self._config.hydra.sweep.dir))
        returned = []
        with StopRequest() as stop:
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                if stop.received is not None:
                    raise stopped(sweep)
                try:
                    returned.append(self._run(number, list(overrides)))
                except REFUSALS as error:
                    refuse(sweep, sweep.jobs[number], explain(error))
        return returned

    def _run(self, number: int, overrides: list[str]) -> JobReturn:
        loader: Any = self._context.config_loader
        config = loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        ended = run_job(
            hydra_context=self._context,
            task_function=self._task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if ended.status == JobStatus.FAILED:
            _ = ended.return_value  # raises what the task raised
        return ended
