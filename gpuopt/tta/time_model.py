"""How long a prediction with views takes, from a few short ones.

    seconds = overhead + images x (loading + decoding + models x sum over views (making + forward))

The first forward passes, the start of loader processes and the like are the overhead. Making a
view is measured apart from the model, because a noise pattern may cost more than a small network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from gpuopt.choice import Evidence
from gpuopt.errors import InputError
from gpuopt.measure import Interval
from gpuopt.tta.views import View

__all__ = ["TimedPass", "TtaTime", "fit_tta_time"]


class TimedPass(NamedTuple):
    """One short prediction that was timed.

    Attributes:
        images: How many.
        views: That each was seen in.
        seconds: Wall time.
    """

    images: int
    views: tuple[View, ...]
    seconds: float


@dataclass(frozen=True)
class TtaTime:
    """The parts of the time of a prediction on one device.

    Attributes:
        overhead_s: Once per prediction.
        image_s: Per image, whatever the views: to load and move it, and to merge.
        decode_s: Per image that does not lie decoded yet.
        forward_s: Per image, view and model: one over the throughput at the chunk.
        view_s: Per image: to make a view, by the view's name.
        low_ratio: Lower end of what a prediction took, over what this says.
        high_ratio: Upper end.
        chunk_size: Images per forward.
        evidence: `measured` or `predicted`.
        reason: Where, or from what.
    """

    overhead_s: float
    image_s: float
    decode_s: float
    forward_s: float
    view_s: Mapping[str, float]
    low_ratio: float
    high_ratio: float
    chunk_size: int
    evidence: Evidence
    reason: str

    def seconds(
        self, images: int, views: Sequence[View], *, models: int = 1, is_decoded: bool = True
    ) -> Interval:
        """Say how long a prediction takes, with the range that was seen around it.

        Args:
            images: How many.
            views: That each is seen in; one that was not timed costs no more than its forward.
            models: That are averaged, such as the folds of a run.
            is_decoded: Whether the images lie decoded in the cache.
        """
        device_s = sum(self.view_s.get(view.name, 0.0) + self.forward_s for view in views)
        per_image_s = self.image_s + models * device_s + (0.0 if is_decoded else self.decode_s)
        value = self.overhead_s + images * per_image_s
        return Interval(value, self.low_ratio * value, self.high_ratio * value)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "view_s": dict(self.view_s)}


def fit_tta_time(
    passes: Sequence[TimedPass],
    view_s: Mapping[str, float],
    *,
    chunk_size: int,
    reason: str,
    decode_s: float = 0.0,
    startup_s: float = 0.0,
) -> TtaTime:
    """Fit the parts to timed passes, by least squares of the relative errors.

    Args:
        passes: Of at least two sizes and two numbers of views; repeats tell how they scatter.
        view_s: Seconds to make a view of an image, by the view's name.
        chunk_size: Images per forward.
        reason: Where it was measured.
        decode_s: Seconds to decode an image.
        startup_s: Seconds before the first image, such as for imports and weights.

    Raises:
        InputError: For passes that do not tell the parts from each other.
    """
    if len({timed.images for timed in passes}) < 2 or len({len(p.views) for p in passes}) < 2:
        raise InputError("a time is fitted to passes of two sizes and two numbers of views")
    seconds = np.array([timed.seconds for timed in passes])
    making_s = [
        timed.images * sum(view_s.get(view.name, 0.0) for view in timed.views) for timed in passes
    ]
    terms = np.array([(1, timed.images, timed.images * len(timed.views)) for timed in passes])
    parts, _ = nnls(terms / seconds[:, None], np.maximum(0.0, 1 - np.array(making_s) / seconds))
    ratios = seconds / np.maximum(terms @ parts + making_s, 1e-12)
    overhead_s, image_s, forward_s = map(float, parts)
    return TtaTime(
        startup_s + overhead_s,
        image_s,
        decode_s,
        forward_s,
        dict(view_s),
        low_ratio=min(1.0, float(ratios.min())),
        high_ratio=max(1.0, float(ratios.max())),
        chunk_size=chunk_size,
        evidence="measured",
        reason=reason,
    )
