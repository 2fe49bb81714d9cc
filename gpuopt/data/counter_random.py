"""Random numbers that are a function of their position, not of what was drawn before.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the same
(seed, stream, epoch, row) gives the same numbers in any process, order, batch or machine. That is
what makes a resumed run equal to an uninterrupted one.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = ["Stream", "philox4x32", "random_keys", "random_uniforms", "window_generator"]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class Stream(IntEnum):
    """What the numbers are for; streams of one seed do not overlap."""

    ORDER = 1
    AUGMENTATION = 2
    MIXING = 3
    SPLIT = 4
    FOLDS = 5


def philox4x32(counters: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Encrypt counters to random words.

    Args:
        counters: [n, 4], each value below 2**32.
        seed: The key; its low 64 bits count.

    Returns:
        [n, 4] independent uniform words below 2**32.
    """
    keys = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    c0, c1, c2, c3 = (counters[:, column] for column in range(4))
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> _HALF) ^ c1 ^ np.uint64(keys[0]),
            second & _LOW,
            (first >> _HALF) ^ c3 ^ np.uint64(keys[1]),
            first & _LOW,
        )
        keys = [(key + step) & 0xFFFFFFFF for key, step in zip(keys, _KEY_STEPS, strict=True)]
    return np.stack([c0, c1, c2, c3], axis=1)


def random_keys(
    seed: int, stream: Stream, epoch: int, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Give each row a 64-bit random key; sorting rows by it shuffles them."""
    words = _words(seed, stream, epoch, rows, blocks=1)
    return (words[:, 0] << _HALF) | words[:, 1]


def random_uniforms(
    seed: int, stream: Stream, epoch: int, rows: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float32]:
    """Draw numbers in [0, 1) for each row.

    Returns:
        float32 [n, count], multiples of 2**-24, so that none rounds to 1.
    """
    words = _words(seed, stream, epoch, rows, blocks=-(-count // 4))
    return ((words[:, :count] >> np.uint64(8)) * 2.0**-24).astype(np.float32)


def window_generator(seed: int, epoch: int, window: int) -> np.random.Generator:
    """Make the generator of one global window, for distributions such as Beta."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, int(Stream.MIXING)], dtype=np.uint64)
    counter = np.array([0, 0, epoch, window], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _words(
    seed: int, stream: Stream, epoch: int, rows: npt.NDArray[np.int64], blocks: int
) -> npt.NDArray[np.uint64]:
    unsigned = rows.astype(np.uint64)
    counters = np.empty((len(rows), blocks, 4), dtype=np.uint64)
    counters[:, :, 0] = np.arange(blocks, dtype=np.uint64) + np.uint64(int(stream) << 16)
    counters[:, :, 1] = np.uint64(epoch)
    counters[:, :, 2] = (unsigned & _LOW)[:, None]
    counters[:, :, 3] = (unsigned >> _HALF)[:, None]
    return philox4x32(counters.reshape(-1, 4), seed).reshape(len(rows), blocks * 4)
