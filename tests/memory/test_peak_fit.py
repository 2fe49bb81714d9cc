import pytest

from gpuopt.memory.peak_fit import PeakFit


def fit_of(*points, base=10):
    fit = PeakFit()
    for size, peak in points:
        fit.note(size, 9999, base)  # the first step of a size does not count
        fit.note(size, peak, base)
    return fit


def test_nothing_is_known_at_first():
    fit = PeakFit()
    fit.note(4, 50, 10)
    assert fit.measured(4) is None
    assert fit.peak_of(8) is None
    assert fit.bytes_per_sample is None


def test_one_size_gives_what_is_never_too_low_above_it():
    fit = fit_of((4, 50))
    assert fit.peak_of(4) == 50
    assert fit.peak_of(8) == 10 + 2 * 40
    assert fit.peak_of(2) == 10 + 20


def test_two_sizes_give_a_line_and_what_a_sample_adds():
    fit = fit_of((8, 94), (4, 54))
    assert fit.peak_of(16) == 174
    assert fit.bytes_per_sample == 10


def test_between_sizes_the_chord_is_above_a_convex_peak():
    def peak(n):
        return max(40 + 2 * n, 10 + 6 * n)

    fit = fit_of(*((n, peak(n)) for n in (2, 16, 32)))
    assert all(fit.peak_of(n) >= peak(n) for n in range(2, 33))
    assert fit.peak_of(64) == pytest.approx(peak(64))


def test_old_peaks_are_forgotten_and_a_lower_one_never_makes_the_slope_negative():
    fit = fit_of((4, 90))
    for _ in range(8):
        fit.note(4, 50, 10)
    assert fit.measured(4) == 50
    fit.note(8, 0, 10)
    fit.note(8, 45, 10)
    assert fit.peak_of(16) == 50


def test_its_state_goes_through_a_checkpoint():
    fit, other = fit_of((4, 50), (8, 90)), PeakFit()
    other.load(fit.state())
    assert other.peak_of(16) == fit.peak_of(16) == 170
