import pytest

from gpuopt.memory.peak_fit import PeakFit
from gpuopt.steps.size_rule import SizeRule


def fit_of(**peaks):
    fit = PeakFit()
    for name, peak in peaks.items():
        fit.note(int(name[1:]), 0, 0)
        fit.note(int(name[1:]), peak, 10)
    return fit


def test_nothing_changes_before_a_size_is_measured():
    assert SizeRule(0.85, 1.5).next_size(64, 16, PeakFit(), 1000) == 16


@pytest.mark.parametrize(
    ("part", "available", "expected"),
    [
        (16, 1000, 22),  # 64 in parts: 16, 22 (three), 32, 64; at most 1.5 times
        (16, 107, 16),  # 22 would take 123.75 in proportion
        (16, 104, 16),  # 90 of 88.4: within the tolerance
        (16, 103, 13),  # 90 of 87.5 + 2.06: 13 take 75
        (16, 30, 3),  # 25.5: 3 take 25
        (16, 11, 1),  # not even one fits by the fit: as small as can be
        (64, 1000, 64),
    ],
)
def test_the_next_size_follows_from_what_is_available(part, available, expected):
    fit = fit_of(n64=330) if part == 64 else fit_of(n16=90)
    assert SizeRule(0.85, 1.5).next_size(64, part, fit, available) == expected


def test_barred_sizes_and_the_maximum_are_left_out():
    rule, fit = SizeRule(0.85, 4.0), fit_of(n8=50)
    assert rule.next_size(64, 8, fit, 10_000) == 32
    assert rule.next_size(64, 8, fit, 10_000, lambda size: size >= 20) == 16
    assert rule.next_size(64, 8, fit, 10_000, lambda size: size > 8) == 8
    assert SizeRule(0.85, 4.0, maximum=21).next_size(64, 8, fit, 10_000) == 16
