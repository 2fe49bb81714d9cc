"""Which mode of torch.compile to train in, by what was measured and by the goal. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpuopt.choice import Choice
from gpuopt.measure.timing import duration_text
from gpuopt.tuning.goal import Figures, Goal, best_for

__all__ = ["CompileAnswer", "CompiledMode", "compile_answer"]

OFF = "off"


@dataclass(frozen=True)
class CompiledMode:
    """One mode beside eager batches.

    Attributes:
        mode: Of torch.compile.
        eager_ms: A batch without it, in milliseconds; None when it could not be compiled.
        compiled_ms: A batch with it.
        saving_ms: What a batch surely saves: the lower end of the 95 % interval.
        compile_s: Seconds to compile and to compare.
        payback_batches: Batches after which these are saved; None: never.
        fault: Why it cannot be used; empty when it can.
    """

    mode: str
    eager_ms: float | None
    compiled_ms: float | None
    saving_ms: float | None
    compile_s: float
    payback_batches: int | None
    fault: str = ""


@dataclass(frozen=True)
class CompileAnswer:
    """The mode to take.

    Attributes:
        mode: `off` or one of torch.compile.
        reason: One clause with figures.
        modes: What was tried.
        batches: Of the whole run.
        batches_per_epoch: Of an epoch.
        batches_per_step: Of an optimizer step.
    """

    mode: str
    reason: str
    modes: Sequence[CompiledMode]
    batches: int
    batches_per_epoch: int
    batches_per_step: int

    def choice(self) -> Choice:
        """Return the choice with its evidence."""
        return Choice("compile.mode", self.mode, "measured", self.reason)

    def payback_text(self, mode: CompiledMode) -> str:
        """Say after how many steps and epochs a mode has paid."""
        if mode.fault:
            return mode.fault
        if mode.payback_batches is None:
            return "never: not surely faster"
        steps = math.ceil(mode.payback_batches / self.batches_per_step)
        epochs = mode.payback_batches / self.batches_per_epoch
        return f"{steps:,} steps, {epochs:.3g} epochs"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        modes = [{**asdict(mode), "payback": self.payback_text(mode)} for mode in self.modes]
        return {**asdict(self), "modes": modes}


def compile_answer(
    found: Mapping[str, Any],
    goal: Goal,
    *,
    batches: int,
    batches_per_epoch: int,
    batches_per_step: int = 1,
    figures: Mapping[str, Figures] | None = None,
    least_speed_ratio: float = 0.5,
) -> CompileAnswer:
    """Choose a mode.

    For `throughput` the one that saves the most, if it pays back within the run. For `latency`
    the one with the shortest batch, whatever compiling it takes. For `memory` the one that takes
    the least memory, eager included.

    Args:
        found: `CompileChoice.as_dict()` of a trial that was let go on as long as it takes.
        goal: What is wanted.
        batches: Of the whole run.
        batches_per_epoch: Of an epoch.
        batches_per_step: Of an optimizer step.
        figures: For `memory`, measured by mode and with `off`.
        least_speed_ratio: For `memory`.
    """
    modes = _modes(found["trials"])
    usable = [m for m in modes if m.saving_ms is not None and m.saving_ms > 0]
    mode: CompiledMode | None = None
    name = OFF
    if goal == "memory":
        name = best_for(goal, figures or {OFF: Figures(1, 1)}, least_speed_ratio=least_speed_ratio)
        mode = next((m for m in modes if m.mode == name), None)
    else:
        if goal == "throughput":
            usable = [m for m in usable if (m.payback_batches or 0) < batches]
        mode = max(usable, key=lambda m: m.saving_ms or 0.0, default=None)
        name = OFF if mode is None else mode.mode
    answer = CompileAnswer(name, "", modes, batches, batches_per_epoch, batches_per_step)
    if goal == "memory":
        reason = _memory_reason(name, figures or {})
    else:
        reason = _reason(mode, answer, str(found["reason"]))
    return CompileAnswer(name, reason, modes, batches, batches_per_epoch, batches_per_step)


def _modes(trials: Sequence[Mapping[str, Any]]) -> list[CompiledMode]:
    """Take each mode's own part of the time that all took."""
    modes, before_s = [], 0.0
    for trial in trials:
        compile_s = max(0.0, trial["spent_s"] - before_s)
        before_s = trial["spent_s"]
        saving_s = trial["least_saving_s"]
        is_faster = saving_s is not None and saving_s > 0
        modes.append(
            CompiledMode(
                mode=trial["mode"],
                eager_ms=_ms(trial["eager_s"]),
                compiled_ms=_ms(trial["step_s"]),
                saving_ms=_ms(saving_s),
                compile_s=compile_s,
                payback_batches=math.ceil(compile_s / saving_s) if is_faster else None,
                fault=trial["reason"] if trial["step_s"] is None else "",
            )
        )
    return modes


def _reason(mode: CompiledMode | None, answer: CompileAnswer, found: str) -> str:
    if mode is None:
        late = [m for m in answer.modes if m.payback_batches is not None]
        if not late:
            return found
        best = max(late, key=lambda m: m.saving_ms or 0.0)
        return (
            f"{best.mode} would pay back after {answer.payback_text(best)}, the run has "
            f"{answer.batches / answer.batches_per_epoch:.3g} epochs"
        )
    return (
        f"{mode.compiled_ms:.3g} ms against {mode.eager_ms:.3g} ms a batch, "
        f"{duration_text(mode.compile_s)} to compile and compare pay back after "
        f"{answer.payback_text(mode)}"
    )


def _memory_reason(name: str, figures: Mapping[str, Figures]) -> str:
    sizes = {mode: f.memory_bytes for mode, f in figures.items() if f.memory_bytes is not None}
    if len(sizes) < 2:
        return "no mode could be compiled, so none was compared"
    words = ", ".join(f"{mode} {size / 2**30:.2f} GiB" for mode, size in sizes.items())
    return f"the least of {words}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
