import numpy as np
import pytest

from gpuopt.data.counter_random import (
    Stream,
    philox4x32,
    random_keys,
    random_uniforms,
    window_generator,
)

# Known answers of the authors' Random123 library, philox4x32-10.
ANSWERS = [
    ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0A4093822,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "seed", "words"), ANSWERS)
def test_known_answers(counter, seed, words):
    assert philox4x32(np.array([counter], np.uint64), seed)[0].tolist() == words


def test_a_row_does_not_depend_on_the_others():
    rows = np.arange(1000)
    whole = random_uniforms(7, Stream.AUGMENTATION, 3, rows, 12)
    part = random_uniforms(7, Stream.AUGMENTATION, 3, rows[[900, 2]], 12)
    assert np.array_equal(whole[[900, 2]], part)


def test_seed_epoch_stream_and_row_all_count():
    rows = np.arange(100)
    base = random_uniforms(7, Stream.AUGMENTATION, 3, rows, 12)
    others = [
        random_uniforms(8, Stream.AUGMENTATION, 3, rows, 12),
        random_uniforms(7 + 2**32, Stream.AUGMENTATION, 3, rows, 12),
        random_uniforms(7, Stream.ORDER, 3, rows, 12),
        random_uniforms(7, Stream.AUGMENTATION, 4, rows, 12),
        random_uniforms(7, Stream.AUGMENTATION, 3, rows + 100, 12),
        random_uniforms(7, Stream.AUGMENTATION, 3, rows + 2**33, 12),
    ]
    for other in others:
        assert (base == other).mean() < 0.01


def test_uniforms_are_uniform_below_one():
    values = random_uniforms(0, Stream.AUGMENTATION, 0, np.arange(20_000), 7)
    assert values.dtype == np.float32
    assert values.shape == (20_000, 7)
    assert values.min() >= 0
    assert values.max() < 1
    assert np.allclose(values.mean(axis=0), 0.5, atol=0.01)
    assert np.abs(np.corrcoef(values.T) - np.eye(7)).max() < 0.03


def test_keys_shuffle():
    order = np.argsort(random_keys(0, Stream.ORDER, 0, np.arange(5000)))
    assert sorted(order) == list(range(5000))
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 0.05


def test_windows_have_generators_of_their_own():
    first = window_generator(1, 2, 3).random(4)
    assert np.array_equal(first, window_generator(1, 2, 3).random(4))
    for other in ((0, 2, 3), (1, 3, 3), (1, 2, 4), (2**64 - 1, 2, 3)):
        assert not np.array_equal(first, window_generator(*other).random(4))
