"""What `gpuopt recommend_tta` found: the policies with worth and price, and the one to take."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuopt.choice import Choice
from gpuopt.measure import duration_text
from gpuopt.report import FrontierPoint
from gpuopt.tta.frontier import PolicyScores
from gpuopt.tta.recommender import Option, Recommendation
from gpuopt.tta.time_model import TtaTime

__all__ = ["TtaRecommendation"]


@dataclass(frozen=True)
class TtaRecommendation:
    """The answer.

    Attributes:
        run: Whose model it is.
        model_name: timm's name.
        image_size: Side in pixels.
        folds: Number of models that `gpuopt predict` averages.
        images: How many the time is for.
        scores: What the policies are worth.
        time: What a prediction takes.
        options: The policies with both, least time first.
        recommended: Which to take.
        target_minutes: Asked for.
        min_f1: Asked for.
        choices: Every automatic choice.
        notes: What else there is to know, one sentence each.
    """

    run: str
    model_name: str
    image_size: int
    folds: int
    images: int
    scores: PolicyScores
    time: TtaTime
    options: Sequence[Option]
    recommended: Recommendation
    target_minutes: float | None
    min_f1: float | None
    choices: Sequence[Choice] = ()
    notes: Sequence[str] = field(default_factory=list)

    @property
    def wanted(self) -> str:
        """The goals as they were typed."""
        goals = {"target_minutes": self.target_minutes, "min_f1": self.min_f1}
        return " ".join(f"{key}={goal:g}" for key, goal in goals.items() if goal is not None)

    @property
    def shortfall(self) -> str | None:
        """Why no policy is good and quick enough, and the nearest one; None when one is."""
        nearest = self.recommended.nearest
        if nearest is None:
            return None
        return (
            f"{self.wanted}: none; the nearest is {self._words(nearest)}, {self.recommended.reason}"
        )

    @property
    def answer(self) -> str:
        """The answer in one line."""
        chosen = self.recommended.chosen
        if chosen is None:
            return self.shortfall or ""
        return f"tta={self._words(chosen)}; {self.recommended.reason}"

    @property
    def points(self) -> list[FrontierPoint]:
        """The policies for a picture."""
        return [
            FrontierPoint(
                option.scored.name,
                option.minutes,
                option.scored.macro_f1,
                option.is_on_frontier,
                option is self.recommended.chosen,
            )
            for option in self.options
        ]

    def _words(self, option: Option) -> str:
        scored = option.scored
        views = f"{len(scored.views)} view{'' if len(scored.views) == 1 else 's'}"
        value, high = (duration_text(60 * m) for m in (option.minutes.value, option.minutes.high))
        at_most = "" if high == value else f", at most {high}"
        return (
            f"{scored.name}: {views}, {value} {self.time.evidence}{at_most}, "
            f"macro-F1 {scored.macro_f1}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        chosen, nearest = self.recommended.chosen, self.recommended.nearest
        return {
            "run": self.run,
            "model": self.model_name,
            "image_size": self.image_size,
            "folds": self.folds,
            "images": self.images,
            "selection_images": self.scores.selection_images,
            "report_images": self.scores.report_images,
            "target_minutes": self.target_minutes,
            "min_f1": self.min_f1,
            "chosen": None if chosen is None else chosen.scored.name,
            "nearest": None if nearest is None else nearest.scored.name,
            "reason": self.recommended.reason,
            "policies": [option.as_dict() for option in self.options],
            "time": self.time.as_dict(),
            "choices": [choice.as_dict() for choice in self.choices],
            "notes": list(self.notes),
        }
