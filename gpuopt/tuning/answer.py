"""What `gpuopt tune` found. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuopt.choice import Choice
from gpuopt.measure.pairs import PairedRatio
from gpuopt.tuning.compile_answer import CompileAnswer
from gpuopt.tuning.goal import Figures, Goal
from gpuopt.tuning.loader_search import LoaderResult

__all__ = ["BeforeAfter", "TuneAnswer"]

_LEAST_SPEED_RATIO = 0.97  # below it the change is more likely for the worse
_NOISE_RATIO = 0.05  # of a 95th percentile, or of a process's memory, from one run to the next


@dataclass(frozen=True)
class BeforeAfter:
    """Two trainings that were measured in turns.

    Attributes:
        before: Figures of the settings as they were typed.
        after: Figures of the settings that were found.
        speed: Throughput after / before.
        samples_per_step: Samples of an optimizer step, which both have.
        memory: What the memory is of, in words.
    """

    before: Figures
    after: Figures
    speed: PairedRatio
    samples_per_step: int
    memory: str

    def step_ms(self, figures: Figures) -> float:
        """Return the duration of an optimizer step in milliseconds."""
        return 1000 * self.samples_per_step / figures.samples_per_second

    def is_worse(self, goal: Goal) -> bool:
        """Tell whether what was found serves a goal less than what was typed."""
        if goal == "throughput":
            return self.speed.high < 1 or self.speed.ratio < _LEAST_SPEED_RATIO
        if goal == "latency":
            return self.after.batch_ms > (1 + _NOISE_RATIO) * self.before.batch_ms
        before, after = self.before.memory_bytes, self.after.memory_bytes
        return before is not None and after is not None and after > (1 + _NOISE_RATIO) * before

    def kept_because(self, goal: Goal) -> str:
        """Say why what was typed is kept where `is_worse`."""
        if goal == "throughput" and self.speed.high >= 1:  # a guess that nobody can call measured
            return (
                "what was found is not surely better than what was typed: nothing is changed; "
                "measure again when the machine does nothing else"
            )
        return "the settings as they were typed are better: nothing is changed"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        sides = {"before": self.before, "after": self.after}
        return {
            **{
                name: {**figures.as_dict(), "step_ms": self.step_ms(figures)}
                for name, figures in sides.items()
            },
            "speed": self.speed.as_dict(),
            "samples_per_step": self.samples_per_step,
            "memory": self.memory,
        }


@dataclass(frozen=True)
class TuneAnswer:
    """The settings that serve a goal.

    Attributes:
        target: `loader`, `compile` or `all`.
        goal: What for.
        device: Name of the device.
        choices: What was found, in order.
        unmeasured: What could not be measured and why, in one line; empty when all was.
        loader: The search for the loader's setting; None when it was not asked for.
        compiled: The modes of torch.compile; None when it was not asked for.
        comparison: Before and after; only of `all`.
        notes: What else is to be known, a line each.
    """

    target: str
    goal: Goal
    device: str
    choices: Sequence[Choice]
    unmeasured: str = ""
    loader: LoaderResult | None = None
    compiled: CompileAnswer | None = None
    comparison: BeforeAfter | None = None
    notes: Sequence[str] = field(default=())

    @property
    def settings(self) -> Mapping[str, Any]:
        """By dotted key, what the user did not give and was found; nothing if that is worse."""
        if self.comparison is not None and self.comparison.is_worse(self.goal):
            return {}
        return {c.key: c.value for c in self.choices if c.evidence != "given"}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; sizes in bytes."""
        return {
            "target": self.target,
            "goal": self.goal,
            "device": self.device,
            "choices": [choice.as_dict() for choice in self.choices],
            "settings": dict(self.settings),
            "unmeasured": self.unmeasured or None,
            "loader": None if self.loader is None else self.loader.as_dict(),
            "compile": None if self.compiled is None else self.compiled.as_dict(),
            "comparison": None if self.comparison is None else self.comparison.as_dict(),
            "notes": list(self.notes),
        }
