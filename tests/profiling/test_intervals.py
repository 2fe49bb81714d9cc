import random

from gpuopt.profiling.intervals import gaps, length_us, merged, overlaps_us


def test_merged_is_cut_to_the_window():
    spans = [(-5, 2), (1, 3), (3, 4), (6, 9), (7, 8), (9.5, 20)]
    assert merged(spans, 0, 10) == [(0, 4), (6, 9), (9.5, 10)]


def test_gaps_are_what_is_left():
    assert gaps([(0, 4), (6, 9)], 0, 10) == [(4, 6), (9, 10)]
    assert gaps([], 0, 10) == [(0, 10)]
    assert gaps([(0, 10)], 0, 10) == []


def covered(spans):
    return {time for start, end in spans for time in range(start, end)}


def test_random_spans_agree_with_counting_each_microsecond():
    generator = random.Random(0)
    for _ in range(200):
        these, those = (
            sorted(
                (start, start + generator.randint(1, 9))
                for start in (generator.randint(0, 60) for _ in range(generator.randint(0, 8)))
            )
            for _ in range(2)
        )
        one, other = merged(these, 0, 64), merged(those, 0, 64)
        window = covered([(0, 64)])
        assert length_us(one) == len(covered(these) & window)
        assert length_us(gaps(one, 0, 64)) == len(window - covered(these))
        for (start, end), overlap in zip(one, overlaps_us(one, other), strict=True):
            assert overlap == len(covered([(start, end)]) & covered(those) & window)
