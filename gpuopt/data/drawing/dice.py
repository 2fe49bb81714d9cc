"""Random numbers that depend on a seed and a place alone, the same on every platform.

Only the uniform doubles of NumPy's Philox generator are used (and its float32 normals for
noise); all else is derived from them here, because NumPy may change its other distributions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dice"]

T = TypeVar("T")


class Dice:
    """One stream of random numbers, named by a seed and up to three small numbers.

    Args:
        seed: From 0 to 2**64 - 1.
        stream: What the numbers are for, so that two uses never share them; below 2**8.
        split: Number of the split; below 2**8.
        index: Number of the sample; below 2**48.
    """

    def __init__(self, seed: int, stream: int = 0, split: int = 0, index: int = 0) -> None:
        place = stream << 56 | split << 48 | index
        self._generator = np.random.Generator(
            np.random.Philox(key=np.array([seed, place], dtype=np.uint64))
        )

    def uniform(self, low: float, high: float) -> float:
        """Draw from [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, both included."""
        return low + int(self._generator.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return true with this probability."""
        return bool(self._generator.random() < probability)

    def pick(self, items: Sequence[T]) -> T:
        """Draw one item, all equally likely."""
        return items[self.integer(0, len(items) - 1)]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """Draw one key in proportion to its weight."""
        left = self.uniform(0, sum(weights.values()))
        for item, weight in weights.items():
            left -= weight
            if left < 0:
                return item
        return item

    def normal(self, deviation: float) -> float:
        """Draw from a normal distribution around 0 (Box-Muller)."""
        radius = math.sqrt(-2 * math.log(1 - float(self._generator.random())))
        return deviation * radius * math.cos(math.tau * float(self._generator.random()))

    def digits(self, count: int) -> str:
        """Draw a string of digits that does not start with 0."""
        return str(self.integer(10 ** (count - 1), 10**count - 1))

    def noise(self, height: int, width: int) -> NDArray[np.float32]:
        """Draw standard normal noise of shape (height, width, 1)."""
        return self._generator.standard_normal((height, width, 1), dtype=np.float32)
