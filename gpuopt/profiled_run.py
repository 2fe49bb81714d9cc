"""A window of a real training for `gpuopt profiler`, composed as `gpuopt train` composes it."""

import logging
import math
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from gpuopt.build import build_callbacks
from gpuopt.callbacks import (
    ExactResume,
    GlobalBatchSchedule,
    NonFiniteLoss,
    ScalerSteps,
    StepLog,
)
from gpuopt.callbacks.nsys_marks import NsysMarks
from gpuopt.callbacks.step_phases import StepPhases
from gpuopt.callbacks.step_profiler import TRACE, StepProfiler
from gpuopt.choice import Choice
from gpuopt.data import ImageDataModule
from gpuopt.measure import duration_text
from gpuopt.model import Classifier
from gpuopt.parallel.rank import ALONE
from gpuopt.profiling import Profile, profile_trace
from gpuopt.profiling.files import write_profile
from gpuopt.profiling.window import Window
from gpuopt.run_parts import build_data, build_model, plan_run, process_settings, total_steps
from gpuopt.schema import ProfilerConfig
from gpuopt.session.batch_search import searching_where_asked, with_found
from gpuopt.session.callback_arguments import callback_arguments
from gpuopt.session.compilation import compile_choosers, with_compiled
from gpuopt.session.device import faults_in_words
from gpuopt.session.fitting import FitSettings, make_trainer
from gpuopt.session.plan import Plan
from gpuopt.session.precision_check import settle_precision
from gpuopt.session.scalar_logs import make_logger

__all__ = ["ProfiledRun", "mark", "record", "run_window"]

_log = logging.getLogger(__name__)

# What has to do with the end of an epoch or a run, and would leave something behind.
_LEFT_OUT = ("checkpoint", "early_stopping", "engine_export", "tensorrt_export")
_TIMED_STEPS = 4  # after which it is said how long the rest takes
_WORTH_SAYING_S = 5.0


@dataclass(frozen=True)
class ProfiledRun:
    """A window that is over.

    Attributes:
        window: As it was, perhaps shorter than asked for.
        marks: What marked the steps.
        facts: What was run and where, for people.
        choices: Each automatic choice.
    """

    window: Window
    marks: StepPhases
    facts: dict[str, str]
    choices: tuple[Choice, ...]


def record(
    config: ProfilerConfig, window: Window, folder: Path, on_step: Callable[[int, int], None]
) -> tuple[Profile, list[Path]]:
    """Record a window with PyTorch's profiler, analyse it and write all files.

    Args:
        config: The checked settings.
        window: The steps.
        folder: New; gets the files.
        on_step: Called with the steps that are done and all steps.

    Returns:
        What was found, and the files, the page first.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """

    def make(fitting: Window, tell: Callable[[int], None]) -> StepProfiler:
        return StepProfiler(
            folder,
            wait=fitting.wait,
            warmup=fitting.warmup,
            active=fitting.active,
            activities=config.activities,
            record_shapes=config.record_shapes,
            with_stack=config.with_stack,
            profile_memory=config.profile_memory,
            on_step=tell,
        )

    run = run_window(config, window, make, on_step)
    _log.info("reading the trace of %d steps", run.window.active)
    chosen = [str(choice) for choice in run.choices if choice.evidence != "given"]
    profile = profile_trace(folder / TRACE, plain_step_ms=run.marks.plain_step_ms)
    return profile, write_profile(folder, profile, run.facts, chosen)


def mark(
    config: ProfilerConfig, window: Window, on_step: Callable[[int, int], None]
) -> ProfiledRun:
    """Run a window inside of nsys; arguments and errors as `record`."""

    def make(fitting: Window, tell: Callable[[int], None]) -> NsysMarks:
        return NsysMarks(plain=fitting.wait + fitting.warmup, marked=fitting.active, on_step=tell)

    return run_window(config, window, make, on_step)


def run_window(
    config: ProfilerConfig,
    window: Window,
    make_marks: Callable[[Window, Callable[[int], None]], StepPhases],
    on_step: Callable[[int, int], None],
) -> ProfiledRun:
    """Train for a window of steps; nothing is validated, saved or left behind.

    Args:
        config: The checked settings.
        window: The steps to train for, fewer if the run is shorter.
        make_marks: Makes the callback that marks the steps, from the window and what is to be
            called after each step.
        on_step: Called with the steps that are done and all steps.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    plan = plan_run(config, ALONE)
    with (
        process_settings(config, plan, ALONE),
        _faults(plan),
        tempfile.TemporaryDirectory(prefix="gpuopt_profiler_") as folder,
    ):
        return _run_in(Path(folder), config, plan, window, make_marks, on_step)


def _run_in(
    folder: Path,
    config: ProfilerConfig,
    plan: Plan,
    window: Window,
    make_marks: Callable[[Window, Callable[[int], None]], StepPhases],
    on_step: Callable[[int, int], None],
) -> ProfiledRun:
    data = build_data(config, plan)
    model = build_model(config, plan, data)
    plan = settle_precision(
        plan,
        model,
        data,
        requested=config.precision.name,
        tries=config.precision_probe,
        folder=folder,
        device=torch.device(plan.accelerator),
        plan_for=lambda precision: plan_run(config, ALONE, precision),
    ).plan.with_workers(config.num_workers, decoded=data.is_decoded, ranks=1)
    data.num_workers = plan.num_workers
    if config.model.get("channels_last") == "auto":
        plan = plan.with_choice(model.channels_last_choice())
    steps = total_steps(config, plan, data)
    fitting = window.within(steps)
    if fitting != window:
        reason = f"the run has {steps} steps; more with trainer.max_epochs"
        plan = plan.with_choice(Choice("steps", fitting.steps, "measured", reason))
        _log.info("the run has %d steps: more with trainer.max_epochs=N", steps)
    _log.info("%s", fitting)
    marks = make_marks(fitting, _Clock(fitting.steps, on_step))
    callbacks = _callbacks(config, plan, data, steps, model.name)
    trainer = make_trainer(
        plan,
        _fit_settings(config),
        [*callbacks, marks],
        steps_per_epoch=math.ceil(data.train_size / plan.global_batch_size),
        folder=folder,
        logger=make_logger(config.logger.name, folder),
        trains_only=True,
    )
    _fit(trainer, model, data)
    plan = with_compiled(with_found(plan, callbacks), callbacks)
    return ProfiledRun(fitting, marks, _facts(config, plan, model, data), tuple(plan.choices))


def _callbacks(
    config: ProfilerConfig, plan: Plan, data: ImageDataModule, steps: int, model_name: str
) -> list[L.Callback]:
    callbacks: list[L.Callback] = build_callbacks(
        searching_where_asked(config.callbacks, config.micro_batch_size),
        skip=_LEFT_OUT,
        given=callback_arguments(plan, data, config.cache_dir, model_name),
    )
    callbacks += compile_choosers(config, plan, data, steps)
    callbacks += [ExactResume(), NonFiniteLoss(lambda step, batch: None), StepLog(), ScalerSteps()]
    if plan.global_batch_changes:
        callbacks.append(
            GlobalBatchSchedule(
                plan.global_batch_size,
                plan.global_batch_changes,
                learning_rate_rule=plan.learning_rate_rule,
            )
        )
    return callbacks


def _fit_settings(config: ProfilerConfig) -> FitSettings:
    return FitSettings(
        max_epochs=config.trainer.max_epochs,
        max_steps=config.trainer.max_steps,
        gradient_clip_norm=config.trainer.gradient_clip_norm,
        log_every_n_steps=config.trainer.log_every_n_steps,
        deterministic=config.trainer.deterministic,
    )


def _fit(trainer: L.Trainer, model: Classifier, data: ImageDataModule) -> None:
    try:
        trainer.fit(model, datamodule=data)
    except SystemExit as error:  # what Lightning makes of a Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _faults(plan: Plan) -> Any:
    size = plan.micro_batch_size
    return faults_in_words(
        card=plan.gpu.name,
        setting=f"micro_batch_size={size}",
        remedy=f"give micro_batch_size={max(1, size // 2)}",
    )


def _facts(
    config: ProfilerConfig, plan: Plan, model: Classifier, data: ImageDataModule
) -> dict[str, str]:
    batch = f"{plan.micro_batch_size} x {plan.accumulate_grad_batches} accumulated"
    return {
        "model": f"{model.name}, {plan.image_size} px",
        "data": f"{config.data_name}, {data.num_workers} loader processes",
        "device": plan.gpu.name,
        "batch": f"{batch} = {plan.global_batch_size} per step",
        "precision": plan.precision,
        "torch": f"{torch.__version__}, Python {platform.python_version()}",
    }


class _Clock:
    """Tells after each step how far it is, and once how long the rest takes.

    Args:
        steps: All of them.
        on_step: Called with the steps that are done and all steps.
    """

    def __init__(self, steps: int, on_step: Callable[[int, int], None]) -> None:
        self._steps = steps
        self._on_step = on_step
        self._began_s = 0.0

    def __call__(self, done: int) -> None:
        self._on_step(done, self._steps)
        if done == 1:  # which takes longer than the others
            self._began_s = time.monotonic()
        elif done == 1 + _TIMED_STEPS:
            rest = self._steps - done
            rest_s = (time.monotonic() - self._began_s) / _TIMED_STEPS * rest
            if rest_s > _WORTH_SAYING_S:
                _log.info("about %s for the other %d steps", duration_text(rest_s), rest)
