"""A window of a real training for `gpuopt profiler`, composed as `gpuopt train` composes it."""

import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as L
import torch

from gpuopt.callbacks import GlobalBatchSchedule
from gpuopt.callbacks.nsys_marks import NsysMarks
from gpuopt.callbacks.step_phases import StepPhases
from gpuopt.callbacks.step_profiler import TRACE, StepProfiler
from gpuopt.choice import Choice
from gpuopt.configuration.data_names import name_of_data
from gpuopt.measure import duration_text
from gpuopt.profiling import Profile, profile_trace
from gpuopt.profiling.files import write_profile
from gpuopt.profiling.window import Window
from gpuopt.schema import ProfilerConfig
from gpuopt.session.batch_search import with_found
from gpuopt.session.compilation import with_compiled
from gpuopt.session.plan import Plan
from gpuopt.throwaway_run import ThrowawayRun, opened_run

__all__ = ["ProfiledRun", "mark", "record", "run_window"]

_log = logging.getLogger(__name__)

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
    with opened_run(config) as run:
        plan, fitting = run.plan, window.within(run.steps)
        if fitting != window:
            reason = f"the run has {run.steps} steps; more with trainer.max_epochs"
            plan = plan.with_choice(Choice("steps", fitting.steps, "measured", reason))
            _log.info("the run has %d steps: more with trainer.max_epochs=N", run.steps)
        _log.info("%s", fitting)
        marks = make_marks(fitting, _Clock(fitting.steps, on_step))
        callbacks = [*run.callbacks(), *_schedule(plan)]
        limits = config.trainer
        run.fit([*callbacks, marks], max_epochs=limits.max_epochs, max_steps=limits.max_steps)
        plan = with_compiled(with_found(plan, callbacks), callbacks)
        return ProfiledRun(fitting, marks, _facts(config, plan, run), tuple(plan.choices))


def _schedule(plan: Plan) -> list[L.Callback]:
    if not plan.global_batch_changes:
        return []
    return [
        GlobalBatchSchedule(
            plan.global_batch_size,
            plan.global_batch_changes,
            learning_rate_rule=plan.learning_rate_rule,
        )
    ]


def _facts(config: ProfilerConfig, plan: Plan, run: ThrowawayRun) -> dict[str, str]:
    batch = f"{plan.micro_batch_size} x {plan.accumulate_grad_batches} accumulated"
    return {
        "model": f"{run.model.name}, {plan.image_size} px",
        "data": f"{name_of_data(config.data)}, {run.data.num_workers} loader processes",
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
