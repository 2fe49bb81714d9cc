"""A training for `gpuopt diagnose`: composed as `gpuopt train` does, looked at, and thrown away."""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as L
import torch

from gpuopt.build import build_callbacks
from gpuopt.callbacks import ExactResume, NonFiniteLoss, ScalerSteps, StepLog
from gpuopt.data import ImageDataModule
from gpuopt.diagnosis.remedies import RunSetting
from gpuopt.hardware import available_cpus
from gpuopt.model import Classifier
from gpuopt.parallel.rank import ALONE
from gpuopt.run_parts import build_data, build_model, plan_run, process_settings, total_steps
from gpuopt.schema import DiagnoseConfig
from gpuopt.session.batch_search import searching_where_asked
from gpuopt.session.callback_arguments import callback_arguments
from gpuopt.session.compilation import compile_choosers
from gpuopt.session.device import faults_in_words
from gpuopt.session.fitting import FitSettings, make_trainer
from gpuopt.session.plan import Plan
from gpuopt.session.precision_check import settle_precision
from gpuopt.session.scalar_logs import make_logger

__all__ = ["DiagnosedRun", "opened_run", "train_with"]

# What has to do with the end of an epoch or a run, and would leave something behind.
_LEFT_OUT = ("checkpoint", "early_stopping", "engine_export", "tensorrt_export")
_FOREVER = 1_000_000


@dataclass(frozen=True)
class DiagnosedRun:
    """A training that is ready to start.

    Attributes:
        config: Its settings.
        plan: What the machine decided.
        data: Opened.
        model: Built.
        folder: Where loggers write; it goes away.
    """

    config: DiagnoseConfig
    plan: Plan
    data: ImageDataModule
    model: Classifier
    folder: Path

    @property
    def title(self) -> str:
        """Say for people what is trained, and where."""
        plan = self.plan
        batch = f"{plan.micro_batch_size} x {plan.accumulate_grad_batches} images per step"
        return (
            f"{self.model.name} at {plan.image_size} px, {batch}, {plan.precision} on "
            f"{plan.gpu.name}, {self.data.num_workers} loader processes"
        )

    @property
    def setting(self) -> RunSetting:
        """Say how it is set, for what to try."""
        config, plan, data = self.config, self.plan, self.data
        return RunSetting(
            num_workers=plan.num_workers,
            cpus=available_cpus(),
            cache=config.data.get("cache"),
            is_decoded=data.is_decoded,
            pin_memory=config.pin_memory,
            micro_batch_size=plan.micro_batch_size,
            global_batch_size=plan.global_batch_size,
            precision=plan.precision,
            is_cuda=plan.accelerator == "cuda",
            compile_mode=config.compile.mode,
            checkpointing=plan.checkpointing,
            offload=config.optimizer.get("offload"),
            clips=config.trainer.gradient_clip_norm is not None,
            logger=config.logger.name,
        )


@contextlib.contextmanager
def opened_run(config: DiagnoseConfig) -> Iterator[DiagnosedRun]:
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
    folder = tempfile.TemporaryDirectory(prefix="gpuopt_diagnose_")
    with process_settings(config, plan, ALONE), faults, folder as place:
        data = build_data(config, plan)
        model = build_model(config, plan, data)
        plan = settle_precision(
            plan,
            model,
            data,
            requested=config.precision.name,
            tries=config.precision_probe,
            folder=Path(place),
            device=torch.device(plan.accelerator),
            plan_for=lambda precision: plan_run(config, ALONE, precision),
        ).plan.with_workers(config.num_workers, decoded=data.is_decoded, ranks=1)
        data.num_workers = plan.num_workers
        yield DiagnosedRun(config, plan, data, model, Path(place))


def train_with(
    run: DiagnosedRun,
    callback: L.Callback | None,
    *,
    stops: Callable[[], bool] | None = None,
) -> None:
    """Train with a callback that looks on and ends the training.

    Args:
        run: The training.
        callback: Raises or asks the Trainer to stop when it has seen enough.
        stops: Asked after each batch whether to stop.
    """
    config, plan = run.config, run.plan
    callbacks: list[L.Callback] = build_callbacks(
        searching_where_asked(config.callbacks, config.micro_batch_size),
        skip=_LEFT_OUT,
        given=callback_arguments(plan, run.data, config.cache_dir, run.model.name),
    )
    callbacks += compile_choosers(config, plan, run.data, total_steps(config, plan, run.data))
    callbacks += [ExactResume(), NonFiniteLoss(lambda step, batch: None), StepLog(), ScalerSteps()]
    own: Sequence[L.Callback] = [c for c in (callback, _stopping(stops)) if c is not None]
    settings = FitSettings(
        max_epochs=_FOREVER,
        gradient_clip_norm=config.trainer.gradient_clip_norm,
        log_every_n_steps=config.trainer.log_every_n_steps,
        deterministic=config.trainer.deterministic,
    )
    trainer = make_trainer(
        plan,
        settings,
        [*callbacks, *own],
        steps_per_epoch=math.ceil(run.data.train_size / plan.global_batch_size),
        folder=run.folder,
        logger=make_logger(config.logger.name, run.folder),
        trains_only=True,
    )
    try:
        trainer.fit(run.model, datamodule=run.data)
    except SystemExit as error:  # what Lightning makes of a Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


class _Stopping(L.Callback):
    """Asks after each batch whether to stop."""

    def __init__(self, stops: Callable[[], bool]) -> None:
        self._stops = stops

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        trainer.should_stop = self._stops()


def _stopping(stops: Callable[[], bool] | None) -> L.Callback | None:
    return None if stops is None else _Stopping(stops)
