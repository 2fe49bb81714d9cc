"""What to set for a device, and the command that does: `gpuopt check report=recommend`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gpuopt.checks.lines import facts_table
from gpuopt.checks.recommendation import Recommendation, recommend
from gpuopt.checks.request import CheckRequest
from gpuopt.checks.subject import subjects
from gpuopt.measure import Interval

__all__ = ["RecommendReport", "report"]


@dataclass(frozen=True)
class RecommendReport:
    """The answer.

    Attributes:
        devices: One recommendation each; devices of one kind share it.
    """

    devices: Sequence[Recommendation]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"evidence": "predicted", "devices": [each.as_dict() for each in self.devices]}

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        parts: list[RenderableType] = []
        for device in self.devices:
            parts.append(facts_table(_title(device), _rows(device), _HEADINGS))
            parts += [Text(line) for line in device.notes]
            parts.append(Text(_command(device.command), style="bold"))
        return Group(*parts)


_HEADINGS = ("setting", "value", "evidence", "why")
_LINE = 94


def report(request: CheckRequest) -> RecommendReport:
    """Recommend for each kind of device in question.

    Raises:
        InputError: As `recommend`.
    """
    kinds = {subject.gpu.name: subject for subject in reversed(subjects(request))}
    return RecommendReport([recommend(request, subject) for subject in reversed(kinds.values())])


def _command(words: Sequence[str]) -> str:
    """Word a command in lines that fit and can be copied together."""
    lines = ["gpuopt train"]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) > _LINE:
            lines[-1] += " \\"
            lines.append(" ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _title(device: Recommendation) -> str:
    name = device.subject.gpu.name
    return f"What to set for {'the processors' if name == 'cpu' else name}"


def _rows(device: Recommendation) -> list[tuple[str, str, str, str]]:
    tier = device.tier
    rows = [("tier", tier.name, "predicted", tier.reason)]
    if device.guide:
        rows.append(("", "", "", device.guide))
    rows += [
        (choice.key, str(choice.value), choice.evidence, choice.reason) for choice in device.choices
    ]
    for label, minutes in (
        ("training", device.training_minutes),
        ("prediction", device.prediction_minutes),
    ):
        if minutes is not None:
            rows.append((label, _minutes_text(minutes), "predicted", "loading left out"))
    return rows


def _minutes_text(minutes: Interval) -> str:
    return f"{minutes.value:.3g} min ({minutes.low:.3g} to {minutes.high:.3g})"
