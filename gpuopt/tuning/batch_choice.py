"""The micro-batch that serves a goal, from what was found to fit a card. Imports no torch."""

from collections.abc import Sequence

from gpuopt.choice import Choice, Evidence
from gpuopt.memory import cut_global_batch
from gpuopt.tuning.goal import Figures, Goal, best_for

__all__ = ["choose_for_goal"]


def choose_for_goal(
    goal: Goal,
    found: Choice,
    *,
    knee: int | None,
    timed: Sequence[tuple[int, float, int]],
    per_device: int,
    least_speed_ratio: float,
) -> Choice:
    """Pick the micro-batch.

    For `throughput` what was found: the fewest parts of the global batch that fit. For `latency`
    the smallest with full throughput, so that a forward pass is over soonest. For `memory` the
    least memory that keeps a share of the highest throughput.

    Args:
        goal: What is wanted.
        found: The largest, cut evenly.
        knee: The smallest batch with nearly the throughput of the largest; None: not timed.
        timed: Of each probe that fits: samples, samples per second, bytes.
        per_device: Samples of an optimizer step on this device.
        least_speed_ratio: That share.
    """
    if goal == "throughput" or found.value < 1:
        return found
    if goal == "latency":
        if knee is None:
            return _unchanged(found)
        best, why = knee, f"full throughput from {knee} on"
    else:
        candidates = {
            samples: Figures(speed, 1000 * samples / speed, taken_bytes)
            for samples, speed, taken_bytes in sorted(timed)
        }
        if not candidates:
            return _unchanged(found)
        best = best_for(goal, candidates, least_speed_ratio=least_speed_ratio)
        size_bytes = candidates[best].memory_bytes or 0
        speed = candidates[best].samples_per_second
        why = f"{size_bytes / 2**30:.2f} GiB at {speed:.0f} samples/s with {best}"
    cut = cut_global_batch(min(best, int(found.value)), per_device)
    evidence: Evidence = found.evidence
    parts = f"{per_device} in {cut.accumulate_grad_batches}"
    return Choice(found.key, cut.micro_batch_size, evidence, f"{why}; {parts}")


def _unchanged(found: Choice) -> Choice:
    reason = f"{found.reason}; nothing was timed, so goal= changes nothing"
    return Choice(found.key, found.value, found.evidence, reason)
