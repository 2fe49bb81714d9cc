"""Choose between eager and compiled steps by what they take within one run.

Pure over callables and a clock. Imports no torch.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpuopt.choice import Choice
from gpuopt.measure.timing import duration_text

__all__ = ["CompileChoice", "CompileFailedError", "ModeTrial", "choose_compile_mode"]

OFF = "off"

# Compiling may take as long as it gives back when it saves this share of the time: the 1.33 times
# that common networks gain. So a trial that comes to nothing costs no more than that.
_MOST_SAVED_RATIO = 0.25
# No network is compiled, or read from a cache and compared, in less.
LEAST_TRIAL_S = 3.0
# A further mode may cost half of what is won with the one before.
_RISKED_RATIO = 0.5
_PAIRS = 6
_STUDENT_T = 2.571  # 95 %, two-sided, for the six pairs' five degrees of freedom
_SEGMENT_S = 0.2
_MOST_SEGMENT_STEPS = 20


class CompileFailedError(Exception):
    """A mode cannot be used; the message is one clause that says why."""


@dataclass(frozen=True)
class ModeTrial:
    """One mode beside eager steps.

    Attributes:
        mode: Of torch.compile.
        is_accepted: Whether it pays back.
        reason: One clause with figures.
        eager_s: Mean duration of an eager step beside it; None when it was not timed.
        step_s: Mean duration of a compiled step.
        least_saving_s: Lower end of the 95 % interval of what a step saves.
        spent_s: Time since the beginning of the whole trial.
        payback_steps: Steps after which that is saved, by the lower end; None: never.
    """

    mode: str
    is_accepted: bool
    reason: str
    eager_s: float | None = None
    step_s: float | None = None
    least_saving_s: float | None = None
    spent_s: float = 0.0
    payback_steps: int | None = None


@dataclass(frozen=True)
class CompileChoice:
    """What a run is trained with.

    Attributes:
        mode: `off` or a mode of torch.compile.
        reason: One clause with figures.
        steps_left: Steps that the run had left.
        spent_s: Duration of the whole trial.
        trials: The modes that were tried, in their order.
    """

    mode: str
    reason: str
    steps_left: int
    spent_s: float
    trials: tuple[ModeTrial, ...] = field(default=())

    def choice(self) -> Choice:
        """Return the choice with its evidence."""
        return Choice("compile.mode", self.mode, "measured", self.reason)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "trials": [asdict(trial) for trial in self.trials]}


def choose_compile_mode(
    step_eager: Callable[[], object],
    make_compiled: Callable[[str, float], Callable[[], object]],
    steps_left: int,
    *,
    modes: Sequence[str] = ("default", "reduce-overhead", "max-autotune"),
    time_limit_s: float = 120.0,
    clock: Callable[[], float] = time.perf_counter,
    agree: Callable[[Sequence[float]], list[float]] = list,
) -> CompileChoice:
    """Time both ways in turn, and compile only where that makes this run shorter.

    All the time since the call counts as the cost of compiling, and of what a step saves only the
    lower end of its 95 % interval. What remains of the run bounds the trial as well: see
    `_MOST_SAVED_RATIO`.

    Args:
        step_eager: Does one step.
        make_compiled: Compiles in a mode within so many seconds, checks the result and returns
            what does one step with it; raises CompileFailedError.
        steps_left: Steps that the run has left.
        modes: To try, in this order.
        time_limit_s: Most seconds to compile, all modes together.
        clock: Monotonic time in seconds, when all work that was queued is done.
        agree: Returns the largest of each figure over all ranks. All ranks must call this function
            with the same arguments, and come to the same choice.
    """
    trial = _Trial(step_eager, make_compiled, steps_left, clock, agree)
    return trial.choose(modes, time_limit_s)


class _Trial:
    def __init__(
        self,
        step_eager: Callable[[], object],
        make_compiled: Callable[[str, float], Callable[[], object]],
        steps_left: int,
        clock: Callable[[], float],
        agree: Callable[[Sequence[float]], list[float]],
    ) -> None:
        self._step_eager = step_eager
        self._make_compiled = make_compiled
        self._steps_left = steps_left
        self._clock = clock
        self._agree = agree
        self._began = clock()

    def choose(self, modes: Sequence[str], time_limit_s: float) -> CompileChoice:
        self._step_eager()  # not timed: memory is taken and kernels are chosen
        eager_s = self._agree([self._time(self._step_eager, 2)])[0]
        left_s = eager_s * self._steps_left
        if time_limit_s < LEAST_TRIAL_S:
            reason = (
                f"a limit of {duration_text(time_limit_s)} is too short: nothing is compiled in "
                f"less than {duration_text(LEAST_TRIAL_S)}"
            )
            return self._result(None, reason, ())
        limit_s = min(time_limit_s, _MOST_SAVED_RATIO * left_s)
        if limit_s < LEAST_TRIAL_S:
            reason = f"the {duration_text(left_s)} of steps left are too few to pay back compiling"
            return self._result(None, reason, ())
        trials: list[ModeTrial] = []
        best: ModeTrial | None = None
        for mode in modes:
            limit_here_s = self._limit(limit_s, best)
            if limit_here_s < LEAST_TRIAL_S:
                break
            trial = self._try(mode, limit_here_s, eager_s)
            trials.append(trial)
            if trial.is_accepted and _saving(trial) > _saving(best):
                best = trial
        reason = best.reason if best else "; ".join(f"{t.mode}: {t.reason}" for t in trials)
        if not trials:
            reason = f"the eager steps left too little of the {duration_text(limit_s)} to compile"
        return self._result(best, reason, tuple(trials))

    def _result(
        self, best: ModeTrial | None, reason: str, trials: tuple[ModeTrial, ...]
    ) -> CompileChoice:
        mode = best.mode if best else OFF
        return CompileChoice(mode, reason, self._steps_left, self._spent_s(), trials)

    def _spent_s(self) -> float:
        return self._agree([self._clock() - self._began])[0]

    def _limit(self, limit_s: float, best: ModeTrial | None) -> float:
        spent_s = self._spent_s()
        remaining_s = limit_s - spent_s
        if best is None:
            return remaining_s
        won_s = _saving(best) * self._steps_left - spent_s
        return min(remaining_s, _RISKED_RATIO * won_s)

    def _try(self, mode: str, limit_s: float, eager_s: float) -> ModeTrial:
        fault: str | None = None
        step: Callable[[], object] = self._step_eager
        try:
            step = self._make_compiled(mode, limit_s)
        except CompileFailedError as error:
            fault = str(error)
        if self._agree([float(fault is not None)])[0]:
            reason = fault or "it failed on another rank"
            return ModeTrial(mode, False, reason, spent_s=self._spent_s())
        pairs = [(pair[0], pair[1]) for pair in self._pairs(step, eager_s)]
        return self._judge(mode, pairs)

    def _pairs(self, step: Callable[[], object], eager_s: float) -> Iterator[list[float]]:
        """Time segments of both in alternating order, which a drift of the device cannot favour."""
        count = min(_MOST_SEGMENT_STEPS, max(1, math.ceil(_SEGMENT_S / max(eager_s, 1e-9))))
        step()
        for pair in range(_PAIRS):
            if pair % 2:
                compiled_s = self._time(step, count)
                eager_s = self._time(self._step_eager, count)
            else:
                eager_s = self._time(self._step_eager, count)
                compiled_s = self._time(step, count)
            yield self._agree([eager_s, compiled_s])  # the slowest rank decides how long a step is

    def _time(self, step: Callable[[], object], count: int) -> float:
        began = self._clock()
        for _ in range(count):
            step()
        return (self._clock() - began) / count

    def _judge(self, mode: str, pairs: Sequence[tuple[float, float]]) -> ModeTrial:
        eager_s = statistics.mean(eager for eager, _ in pairs)
        step_s = statistics.mean(compiled for _, compiled in pairs)
        savings = [eager - compiled for eager, compiled in pairs]
        spread_s = _STUDENT_T * statistics.stdev(savings) / math.sqrt(len(savings))
        least_s = statistics.mean(savings) - spread_s
        spent_s, left = self._spent_s(), self._steps_left
        figures = f"{1000 * step_s:.3g} ms against {1000 * eager_s:.3g} ms a batch"
        if least_s <= 0:
            reason, is_accepted, payback = f"{figures}, not surely faster", False, None
        else:
            payback = math.ceil(spent_s / least_s)
            is_accepted = payback < left
            when = f"pays back after {payback:,} of {left:,} batches"
            if not is_accepted:
                when = (
                    f"would pay back after {duration_text(payback * step_s)}, the run is "
                    f"{duration_text(left * eager_s)}"
                )
            reason = f"{figures}, {duration_text(spent_s)} to compile and compare, {when}"
        return ModeTrial(mode, is_accepted, reason, eager_s, step_s, least_s, spent_s, payback)


def _saving(trial: ModeTrial | None) -> float:
    return 0.0 if trial is None or trial.least_saving_s is None else trial.least_saving_s
