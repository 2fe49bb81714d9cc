"""How long a prediction with views takes, from a few short ones.

    seconds = start + overhead
        + images x (decoding + passes x (loading + sum over views (making))
                    + models x views x forward)

The first forward passes, the start of loader processes and the like are the overhead. Making a
view is measured apart from the model, because a noise pattern may cost more than a small network;
the models of one pass over the images share it.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
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
        turn: Of a pass over all sizes and views; turns tell how the time scatters.
    """

    images: int
    views: tuple[View, ...]
    seconds: float
    turn: int = 0


@dataclass(frozen=True)
class TtaTime:
    """The parts of the time of a prediction on one device.

    Attributes:
        startup_s: Before the first image, such as for imports and weights.
        overhead_s: Once per prediction.
        image_s: Per image, whatever the views: to load and move it, and to merge.
        decode_s: Per image that does not lie decoded yet.
        forward_s: Per image, view and model: one over the throughput at the chunk.
        view_s: Per image: to make a view, by the view's name.
        low_ratio: Lower end of what a prediction took after the start, over what this says.
        high_ratio: Upper end.
        chunk_size: Images per forward.
        evidence: `measured` or `predicted`.
        reason: Where, or from what.
    """

    startup_s: float
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
        self,
        images: int,
        views: Sequence[View],
        *,
        models: int = 1,
        passes: int = 1,
        is_decoded: bool = True,
    ) -> Interval:
        """Say how long a prediction takes, with the range that was seen around it.

        Args:
            images: How many.
            views: That each is seen in; one that was not timed costs no more than its forward.
            models: That are averaged, such as the folds of a run.
            passes: Over the images, each with some of the models.
            is_decoded: Whether the images lie decoded in the cache.
        """
        making_s = sum(self.view_s.get(view.name, 0.0) for view in views)
        forward_s = models * len(views) * self.forward_s
        per_image_s = passes * (self.image_s + making_s) + forward_s
        per_image_s += 0.0 if is_decoded else self.decode_s
        work_s = passes * self.overhead_s + images * per_image_s
        ends = (ratio * work_s for ratio in (1.0, self.low_ratio, self.high_ratio))
        return Interval(*(self.startup_s + end for end in ends))

    def minutes(
        self,
        images: int,
        views: Sequence[View],
        *,
        models: int = 1,
        passes: int = 1,
        is_decoded: bool = True,
    ) -> Interval:
        """Say the same in minutes; arguments as `seconds`."""
        found = self.seconds(images, views, models=models, passes=passes, is_decoded=is_decoded)
        return Interval(found.value / 60, found.low / 60, found.high / 60)

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
        passes: Of at least two sizes and two numbers of views, in one turn or several.
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
    cells = _cells(passes)
    parts = _fit(cells, view_s)
    overhead_s, image_s, forward_s = map(float, parts)
    fitted_s = [float(_terms(timed) @ parts) + _making_s(timed, view_s) for timed in passes]
    turns = {timed.turn for timed in passes}
    ratios = [
        sum(timed.seconds for timed in passes if timed.turn == turn)
        / sum(s for s, timed in zip(fitted_s, passes, strict=True) if timed.turn == turn)
        for turn in turns
    ]
    return TtaTime(
        startup_s,
        overhead_s,
        image_s,
        decode_s,
        forward_s,
        dict(view_s),
        low_ratio=min(1.0, *ratios),
        high_ratio=max(1.0, *ratios),
        chunk_size=chunk_size,
        evidence="measured",
        reason=reason,
    )


def _cells(passes: Sequence[TimedPass]) -> list[TimedPass]:
    """Take the median of each size and views: one disturbed pass shall not move the fit."""
    seconds: dict[tuple[int, tuple[View, ...]], list[float]] = {}
    for timed in passes:
        seconds.setdefault((timed.images, timed.views), []).append(timed.seconds)
    return [TimedPass(*cell, statistics.median(found)) for cell, found in seconds.items()]


def _fit(cells: Sequence[TimedPass], view_s: Mapping[str, float]) -> NDArray[np.float64]:
    """Return overhead, seconds per image, and seconds per image and view."""
    seconds = np.array([cell.seconds for cell in cells])
    left = np.maximum(0.0, [1 - _making_s(cell, view_s) / cell.seconds for cell in cells])
    terms = np.array([_terms(cell) for cell in cells]) / seconds[:, None]
    parts: NDArray[np.float64] = nnls(terms, left)[0]
    if parts[2] == 0.0:  # lost in the noise: all of the time is taken to grow with the views
        parts = np.array([0.0, 0.0, nnls(terms[:, 2:], left)[0][0]])
    return parts


def _terms(timed: TimedPass) -> NDArray[np.float64]:
    return np.array([1.0, timed.images, timed.images * len(timed.views)])


def _making_s(timed: TimedPass, view_s: Mapping[str, float]) -> float:
    return timed.images * sum(view_s.get(view.name, 0.0) for view in timed.views)
