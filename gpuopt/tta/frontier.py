"""What policies of views are worth on images that nobody chose them by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuopt.measure import (
    Interval,
    bootstrap_interval,
    class_counts,
    confusion_matrix,
    grouped_bootstrap_interval,
    macro_f1,
    paired_bootstrap_difference,
)
from gpuopt.tta.held_out import HeldOutScores
from gpuopt.tta.policy import TestTimeAugmentation
from gpuopt.tta.selection import calibrated_log_likelihood, halves, select_views
from gpuopt.tta.views import View

__all__ = ["PolicyScores", "ScoredPolicy", "score_policies"]


_UNNAMED = TestTimeAugmentation("image_alone")


@dataclass(frozen=True)
class ScoredPolicy:
    """A policy and what it is worth.

    Attributes:
        name: Of the policy, or `greedy_4` for the first four views of the search.
        views: With their weights.
        merge: `mean` or `geometric`.
        macro_f1: On the half to report on.
        difference: To no test-time augmentation on the same resampled images; None for that.
        selection_f1: Macro-F1 on the half to select on.
        log_likelihood: Calibrated, on the half to select on, in nats per image.
        is_preset: Whether it has a name of its own under `tta=`.
    """

    name: str
    views: tuple[View, ...]
    merge: str
    macro_f1: Interval
    difference: Interval | None
    selection_f1: float
    log_likelihood: float
    is_preset: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "views": [view.mapping for view in self.views],
            "merge": self.merge,
            "macro_f1": self.macro_f1.as_dict(),
            "difference": None if self.difference is None else self.difference.as_dict(),
            "selection_f1": self.selection_f1,
            "log_likelihood": self.log_likelihood,
            "is_preset": self.is_preset,
        }


@dataclass(frozen=True)
class PolicyScores:
    """The policies, and on how many images they were chosen and judged.

    Attributes:
        policies: No test-time augmentation first, then the others as they were given, then those
            of the search.
        selection_images: Images that the search chose by.
        report_images: Other images, on which all are judged.
    """

    policies: Sequence[ScoredPolicy]
    selection_images: int
    report_images: int


def score_policies(
    scores: HeldOutScores,
    policies: Sequence[TestTimeAugmentation],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> PolicyScores:
    """Judge given policies and those of a greedy search over their views.

    One half of the images chooses views, the other one reports.

    Args:
        scores: Of all views of the policies, and of the image as it is.
        policies: Given ones; no test-time augmentation is judged as well.
        resamples: Of the bootstrap.
        seed: Of the split and the bootstrap.

    Raises:
        InputError: When a half has fewer than two images, or groups.
    """
    chosen_by, reported = (
        scores.take(rows) for rows in halves(scores.targets, scores.groups, seed)
    )
    judge = _Judge(chosen_by, reported, resamples, seed)
    plain, others = _with_plain(policies)
    found = [
        judge(policy.name, policy.parsed_views(), policy.merge, is_preset=policy is not _UNNAMED)
        for policy in (plain, *others)
    ]
    known = {_content(policy.views, policy.merge) for policy in found}
    for step in select_views(chosen_by):
        if _content(step.views, "mean") not in known:
            name = f"greedy_{len(step.views)}"
            found.append(judge(name, step.views, "mean", is_preset=False))
    return PolicyScores(found, len(chosen_by.targets), len(reported.targets))


def _with_plain(
    policies: Sequence[TestTimeAugmentation],
) -> tuple[TestTimeAugmentation, list[TestTimeAugmentation]]:
    """Tell the policy of the image alone from the others, each name once, the last of a name.

    It is called none, but where someone's own none has views.
    """
    named = {policy.name: policy for policy in policies}
    none = named.pop(TestTimeAugmentation().name, TestTimeAugmentation())
    if none.is_single_view:
        return none, list(named.values())
    return _UNNAMED, [none, *named.values()]


class _Judge:
    """Scores policies on both halves."""

    def __init__(
        self, chosen_by: HeldOutScores, reported: HeldOutScores, resamples: int, seed: int
    ) -> None:
        self._chosen_by = chosen_by
        self._reported = reported
        self._options: Mapping[str, Any] = {"resamples": resamples, "seed": seed}
        self._baseline = reported.classes_by((View(),))

    def __call__(
        self, name: str, views: tuple[View, ...], merge: str, *, is_preset: bool
    ) -> ScoredPolicy:
        targets = self._chosen_by.targets
        merged = self._chosen_by.merged(views, merge)
        counts = class_counts(
            confusion_matrix(targets, merged.argmax(axis=1), self._chosen_by.classes)
        )
        classes = self._reported.classes_by(views, merge)
        is_plain = len(views) == 1 and views[0].is_identity
        return ScoredPolicy(
            name,
            views,
            merge,
            macro_f1=self._interval(classes),
            difference=None if is_plain else self._difference(classes),
            selection_f1=float(macro_f1(counts)),
            log_likelihood=calibrated_log_likelihood(merged, targets),
            is_preset=is_preset,
        )

    def _interval(self, classes: NDArray[np.int64]) -> Interval:
        targets, groups = self._reported.targets, self._reported.groups
        if groups is None:
            return bootstrap_interval(targets, classes, **self._options)
        return grouped_bootstrap_interval(targets, classes, groups, **self._options)

    def _difference(self, classes: NDArray[np.int64]) -> Interval:
        return paired_bootstrap_difference(
            self._reported.targets,
            self._baseline,
            classes,
            groups=self._reported.groups,
            **self._options,
        )


def _content(views: Sequence[View], merge: str) -> tuple[Any, ...]:
    """Tell policies apart by what they do; equal weights of any size are the same."""
    total = sum(view.weight for view in views)
    shares = sorted((view.operations, round(view.weight / total, 9)) for view in views)
    return merge if len(views) > 1 else "mean", tuple(shares)
