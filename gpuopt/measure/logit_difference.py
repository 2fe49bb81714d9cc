"""How far the logits of one way to compute a network are from those of another."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LogitDifference", "compare_logits"]


@dataclass(frozen=True)
class LogitDifference:
    """What differs between two ways to compute a network.

    Attributes:
        ratio: Root mean square of the differences / that of the logits.
        largest_ratio: Largest difference / largest logit.
        top1_agreement: Share of samples with the same class, of those that the reference decides
            by more than twice the difference that is allowed; None when there are none.
    """

    ratio: float
    largest_ratio: float
    top1_agreement: float | None


def compare_logits(
    reference: Tensor, other: Tensor, most_difference_ratio: float
) -> LogitDifference:
    """Compare logits.

    Args:
        reference: Float [n, classes].
        other: Of the same samples, float [n, classes].
        most_difference_ratio: What is allowed of `LogitDifference.ratio`.
    """
    # A shift of all classes changes no probability.
    centred = reference - reference.mean(1, keepdim=True)
    scale = centred.square().mean().sqrt().clamp_min(1e-12)
    difference = other - reference
    ratio = float(difference.square().mean().sqrt() / scale)
    largest = float(difference.abs().max() / centred.abs().max().clamp_min(1e-12))
    best, own = reference.max(1)
    second = reference.scatter(1, own[:, None], float("-inf")).max(1).values
    decided = best - second > 2 * most_difference_ratio * scale
    if not bool(decided.any()):
        return LogitDifference(ratio, largest, None)
    agreement = float((other.argmax(1) == own)[decided].float().mean())
    return LogitDifference(ratio, largest, agreement)
