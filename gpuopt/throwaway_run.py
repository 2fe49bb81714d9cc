"""A training that is looked at and thrown away, composed as `gpuopt train` composes its own."""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as L

from gpuopt.build import build_callbacks
from gpuopt.callbacks import ExactResume, NonFiniteLoss, ScalerSteps, StepLog
from gpuopt.data import ImageDataModule
from gpuopt.model import Classifier
from gpuopt.parallel.rank import ALONE
from gpuopt.run_parts import build_parts, plan_run, process_settings, total_steps
from gpuopt.schema import TrainConfig
from gpuopt.session.batch_search import searching_where_asked
from gpuopt.session.callback_arguments import callback_arguments
from gpuopt.session.compilation import compile_choosers
from gpuopt.session.device import faults_in_words
from gpuopt.session.fitting import FitSettings, make_trainer
from gpuopt.session.plan import Plan
from gpuopt.session.scalar_logs import make_logger

__all__ = ["ThrowawayRun", "opened_run"]

# What has to do with the end of an epoch or a run, and would leave something behind.
_LEFT_OUT = ("checkpoint", "early_stopping", "engine_export", "tensorrt_export")


@dataclass(frozen=True)
class ThrowawayRun:
    """A training that is ready to start; it validates and saves nothing.

    Attributes:
        config: Its settings.
        plan: What the machine decided.
        data: Opened.
        model: Built.
        folder: Where loggers write; it goes away.
    """

    config: TrainConfig
    plan: Plan
    data: ImageDataModule
    model: Classifier
    folder: Path

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return total_steps(self.config, self.plan, self.data)

    def callbacks(self) -> list[L.Callback]:
        """Make the callbacks that change what a step does or takes, as in training."""
        config, plan, data = self.config, self.plan, self.data
        return [
            *build_callbacks(
                searching_where_asked(config.callbacks, config.micro_batch_size),
                skip=_LEFT_OUT,
                given=callback_arguments(plan, data, config.cache_dir, self.model.name),
            ),
            *compile_choosers(config, plan, data, self.steps),
            ExactResume(),
            NonFiniteLoss(),
            StepLog(),
            ScalerSteps(),
        ]

    def fit(self, callbacks: Sequence[L.Callback], *, max_epochs: int, max_steps: int = -1) -> None:
        """Train.

        Args:
            callbacks: In their order.
            max_epochs: Passes over the training data at most.
            max_steps: Optimizer steps at most; -1 for no limit.
        """
        settings = self.config.trainer
        trainer = make_trainer(
            self.plan,
            FitSettings(
                max_epochs=max_epochs,
                max_steps=max_steps,
                gradient_clip_norm=settings.gradient_clip_norm,
                log_every_n_steps=settings.log_every_n_steps,
                deterministic=settings.deterministic,
            ),
            callbacks,
            steps_per_epoch=math.ceil(self.data.train_size / self.plan.global_batch_size),
            folder=self.folder,
            logger=make_logger(self.config.logger.name, self.folder),
            trains_only=True,
        )
        try:
            trainer.fit(self.model, datamodule=self.data)
        except SystemExit as error:  # what Lightning makes of a Ctrl-C
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise


@contextlib.contextmanager
def opened_run(config: TrainConfig) -> Iterator[ThrowawayRun]:
    """Build a training.

    Args:
        config: The checked settings.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    plan = plan_run(config, ALONE)
    size = plan.micro_batch_size
    faults = faults_in_words(
        card=plan.gpu.name,
        setting=f"micro_batch_size={size}",
        remedy=f"give micro_batch_size={max(1, size // 2)}",
    )
    place = tempfile.TemporaryDirectory(prefix="gpuopt_")
    with process_settings(config, plan, ALONE), faults, place as name:
        parts = build_parts(config, plan, ALONE, Path(name))
        yield ThrowawayRun(config, parts.plan, parts.data, parts.model, Path(name))
