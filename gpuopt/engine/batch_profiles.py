"""The batch sizes that an engine with fixed profiles is tuned for, and how a batch is fitted in.

TensorRT tunes its kernels for one batch size of a profile, and others are slow, often slower than
a batch filled up to that size. So there is one profile for single images and one for full batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BatchProfile", "batch_profiles", "fitted_batch"]

_MOST_FOR_LATENCY = 4
_LEAST_FOR_THROUGHPUT = 8


@dataclass(frozen=True)
class BatchProfile:
    """A range of batch sizes.

    Attributes:
        minimum: Fewest images.
        optimum: The size that kernels are chosen for.
        maximum: Most images.
    """

    minimum: int
    optimum: int
    maximum: int

    def shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Return the three shapes [n, 3, s, s] under the names that TensorRT's builders use."""
        sizes = {"min": self.minimum, "opt": self.optimum, "max": self.maximum}
        return {f"{name}_shape": (n, 3, image_size, image_size) for name, n in sizes.items()}


def batch_profiles(optimal: int, maximum: int) -> tuple[BatchProfile, ...]:
    """Divide the batch sizes 1 to `maximum`: few images at once, and full batches.

    Args:
        optimal: Images of a full batch.
        maximum: Most images of any.

    Returns:
        One profile where the maximum is small, else two.
    """
    if maximum <= _MOST_FOR_LATENCY:
        return (BatchProfile(1, min(optimal, maximum), maximum),)
    full = optimal if optimal > _MOST_FOR_LATENCY else min(_LEAST_FOR_THROUGHPUT, maximum)
    return (
        BatchProfile(1, 1, _MOST_FOR_LATENCY),
        BatchProfile(min(_LEAST_FOR_THROUGHPUT, full), full, maximum),
    )


def fitted_batch(
    count: int, profiles: Sequence[BatchProfile], too_large: int | None = None
) -> tuple[int, int]:
    """Choose a profile for a batch, and the size that the batch is filled up to.

    Few images run as they are. A fuller batch is filled up to the optimum, or to the maximum.

    Args:
        count: Images, from 1 to the largest maximum.
        profiles: From `batch_profiles`.
        too_large: A size for which memory ran out: smaller batches are not filled up to it.

    Returns:
        The profile's place and the size.

    Raises:
        ValueError: When no profile takes that many.
    """
    for place, profile in enumerate(profiles):
        if not 1 <= count <= profile.maximum:
            continue
        if profile.minimum == 1:
            return place, count
        size = profile.optimum if count <= profile.optimum else profile.maximum
        if too_large is not None and count < too_large <= size:
            size = max(count, profile.minimum)
        return place, size
    raise ValueError(f"{count} images in a batch: the engine takes 1 to {profiles[-1].maximum}")
