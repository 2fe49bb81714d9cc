"""Hydra's sweeper of `gpuopt sweep`: Optuna proposes the next job from the results of the others.

The study lies in the sweep's folder as a journal file, and a trial is a job of the same number, so
that a search that was stopped goes on with the job that it was stopped in.
"""

import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from gpuopt.errors import InputError
from gpuopt.launching import check_launcher, launch
from gpuopt.session.sweep_folder import SweepFolder
from gpuopt.session.sweep_jobs import conclude
from gpuopt.session.sweep_words import without_folder
from gpuopt.storage import FolderLock

__all__ = ["OptunaSweeper"]

_STUDY = "sweep"


class OptunaSweeper(Sweeper):
    """Searches over the keys that were given several values or an interval.

    Args:
        n_trials: Jobs in all.
        direction: `maximize` or `minimize` the best validation score.
        seed: Of the proposals.
    """

    def __init__(self, n_trials: int, direction: str, seed: int) -> None:
        self._trials, self._direction, self._seed = n_trials, direction, seed

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what `sweep` needs."""
        if self._direction not in ("maximize", "minimize"):
            raise InputError("hydra.sweeper.direction is maximize or minimize")
        for name, value in (("n_trials", self._trials), ("seed", self._seed)):
            if type(value) is not int or value < (name == "n_trials"):
                raise InputError(f"hydra.sweeper.{name}={value} is no whole number in its range")
        check_launcher(config)
        self.config, self._context = config, hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until there are `n_trials`; raises as `GridSweeper.sweep`."""
        import optuna
        from optuna.trial import TrialState

        assert self.config is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        overrides = parser.parse_overrides(arguments)
        fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        space = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
        if not space:
            raise InputError("no key has several values: give one, such as seed=1,2,3")
        folder = SweepFolder(Path(self.config.hydra.sweep.dir))
        if not folder.exists:
            folder.start(without_folder(sys.argv[1:]), [])
        with FolderLock(folder.path):
            study = self._study(folder)
            while True:
                known = study.get_trials(deepcopy=False)
                number = next((t.number for t in known if not t.state.is_finished()), len(known))
                if number >= self._trials:
                    break
                if number == len(known):
                    study.ask(space)
                jobs = [[*fixed, *_words(t.params)] for t in study.get_trials(deepcopy=False)]
                folder.start(folder.words, jobs)
                launch(self._launcher, folder, [jobs[number]], number)
                score = folder.results(number).get("training", {}).get("best_validation_score")
                state = TrialState.FAIL if score is None else TrialState.COMPLETE
                study.tell(number, score, state=state)
        if any(trial.state == TrialState.COMPLETE for trial in study.trials):
            best = study.best_trial
            sys.stdout.write(
                f"best: job {best.number}, {' '.join(_words(best.params))}, "
                f"validation score {best.value:.4f}\n"
            )
        conclude(folder)

    def _study(self, folder: SweepFolder) -> Any:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.study import StudyDirection

        storage = JournalStorage(JournalFileBackend(str(folder.path / "optuna.journal")))
        study = optuna.create_study(
            study_name=_STUDY,
            storage=storage,
            direction=StudyDirection[self._direction.upper()],
            load_if_exists=True,
        )
        # Another seed after a resume, else the first random proposals came again.
        study.sampler = optuna.samplers.TPESampler(seed=self._seed + len(study.trials))
        return study


def _distribution(override: Override) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    if not isinstance(value, IntervalSweep):
        choices = list(override.sweep_string_iterator())
        if not choices:  # such as glob(*), where nothing matches
            raise InputError(f"{override.input_line}: nothing to choose from, give values")
        return CategoricalDistribution(choices)
    low, high, is_log = value.start, value.end, "log" in value.tags
    if low is None or high is None:
        raise InputError(f"{override.input_line}: an interval has two ends")
    try:
        if type(low) is int and type(high) is int:
            return IntDistribution(low, high, log=is_log)
        return FloatDistribution(float(low), float(high), log=is_log)
    except ValueError as error:  # in another order, or a logarithm of 0
        raise InputError(f"{override.input_line}: {error}") from error


def _words(params: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]
