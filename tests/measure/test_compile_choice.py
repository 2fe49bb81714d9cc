import itertools
import math

import pytest

from gpuopt.measure.compile_choice import CompileFailedError, choose_compile_mode


class Device:
    """Steps and compilers that take stated times on a clock of their own.

    Args:
        eager_ms: Of a step.
        modes: By mode, the milliseconds of a step and the seconds to compile, or what fails.
        noise: Factors of the steps in turn.
    """

    def __init__(self, eager_ms, modes, noise=(1.0,)):
        self.now = 0.0
        self.eager_ms = eager_ms
        self.modes = modes
        self.asked = []
        self.limits = []
        self._noise = itertools.cycle(noise)

    def spend(self, step_ms):
        self.now += step_ms / 1000 * next(self._noise)

    def compile(self, mode, limit_s):
        self.asked.append(mode)
        self.limits.append(limit_s)
        answer = self.modes[mode]
        if isinstance(answer, str):
            raise CompileFailedError(answer)
        step_ms, compile_s = answer
        if compile_s > limit_s:
            self.now += limit_s
            raise CompileFailedError(f"not compiled within {limit_s:.0f} s")
        self.now += compile_s
        return lambda: self.spend(step_ms)

    def choose(self, steps_left, **options):
        return choose_compile_mode(
            lambda: self.spend(self.eager_ms),
            self.compile,
            steps_left,
            modes=tuple(self.modes),
            clock=lambda: self.now,
            **options,
        )


def test_what_pays_back_is_compiled_and_says_after_how_many_steps():
    found = Device(80, {"default": (61, 38)}).choose(5000)
    assert found.mode == "default"
    (trial,) = found.trials
    assert trial.least_saving_s == pytest.approx(0.019)
    assert trial.spent_s == found.spent_s
    assert trial.payback_steps == math.ceil(trial.spent_s / trial.least_saving_s) < 2500
    choice = str(found.choice())
    assert choice.startswith("compile.mode=default (measured: 61 ms against 80 ms a batch, ")
    assert "to compile and compare, pays back after 2," in choice
    assert "of 5,000 batches" in choice


def test_all_time_of_the_trial_is_part_of_the_cost():
    device = Device(80, {"default": (61, 38)})
    spent_s = device.choose(5000).spent_s
    assert spent_s == pytest.approx(device.now)
    assert spent_s > 38 + 6 * 3 * (0.080 + 0.061) - 1e-6


def test_what_pays_back_too_late_stays_off():
    found = Device(80, {"default": (76, 25)}).choose(5000)
    assert found.mode == "off"
    assert "would pay back after 8 min 54 s" in found.reason
    assert "the run is 6 min 40 s" in found.reason
    # The same on a longer run.
    assert Device(80, {"default": (76, 25)}).choose(50_000).mode == "default"


def test_the_lower_end_of_the_saving_counts():
    """The mean saves 5 ms of 80 in both; with noise that is not sure."""
    assert Device(80, {"default": (75, 20)}).choose(20_000).mode == "default"
    noise = [0.8, 1.25, 1.1, 0.9, 1.3, 0.7, 1.0]
    found = Device(80, {"default": (75, 20)}, noise=noise).choose(20_000)
    assert found.mode == "off"
    assert found.trials[0].eager_s > found.trials[0].step_s
    assert "not surely faster" in found.reason


def test_a_slower_mode_is_not_taken():
    found = Device(80, {"default": (90, 5)}).choose(100_000)
    assert found.mode == "off"
    assert found.trials[0].payback_steps is None
    assert found.trials[0].least_saving_s == pytest.approx(-0.010)


def test_a_drift_of_the_device_favours_neither():
    """Each step takes 0.1 % longer than the one before."""
    device = Device(80, {"default": (80, 5)}, noise=[1.001**i for i in range(1000)])
    trial = device.choose(100_000).trials[0]
    assert abs(trial.eager_s / trial.step_s - 1) < 0.004


def test_a_short_run_is_not_even_tried():
    device = Device(80, {"default": (40, 1)})
    found = device.choose(100)
    assert (found.mode, device.asked) == ("off", [])
    assert found.reason == "the 8.0 s of steps left are too few to pay back compiling"
    assert found.spent_s < 1


def test_a_limit_in_which_nothing_can_be_compiled_is_the_reason():
    device = Device(80, {"default": (40, 1)})
    found = device.choose(100_000, time_limit_s=2.0)
    assert (found.mode, device.asked) == ("off", [])
    assert found.reason == ("a limit of 2.0 s is too short: nothing is compiled in less than 3.0 s")
    found = device.choose(100_000, time_limit_s=3.0)
    assert (found.mode, device.asked) == ("off", [])
    assert found.reason == "the eager steps left too little of the 3.0 s to compile"


@pytest.mark.parametrize(("steps", "limit_s"), [(500, 0.25 * 40), (100_000, 120)])
def test_compiling_is_limited_by_the_setting_and_by_what_the_run_can_win(steps, limit_s):
    device = Device(80, {"default": (40, 10_000)})
    found = device.choose(steps)
    assert found.mode == "off"
    assert device.limits[0] == pytest.approx(limit_s, abs=0.5)
    assert found.spent_s <= limit_s + 0.5
    assert "default: not compiled within" in found.reason


def test_all_modes_share_the_limit():
    device = Device(80, {"default": (79.9, 50), "reduce-overhead": (79.9, 60), "max": (20, 60)})
    assert device.choose(100_000, time_limit_s=120).mode == "off"
    assert device.limits[1] < 70
    assert device.asked == ["default", "reduce-overhead", "max"][: len(device.limits)]
    assert all(limit > 0 for limit in device.limits)


def test_the_fastest_mode_is_taken():
    modes = {"default": (60, 10), "reduce-overhead": (50, 10), "max-autotune": (55, 10)}
    found = Device(80, modes).choose(20_000)
    assert found.mode == "reduce-overhead"
    assert [trial.is_accepted for trial in found.trials] == [True, True, True]


def test_what_is_won_is_not_put_at_risk_for_another_mode():
    device = Device(80, {"default": (60, 10), "max-autotune": (50, 10_000)})
    found = device.choose(1000, time_limit_s=1000)
    assert found.mode == "default"
    won_s = found.trials[0].least_saving_s * 1000 - found.trials[0].spent_s
    assert device.limits[1] == pytest.approx(min(won_s / 2, 20 - found.trials[0].spent_s))
    assert found.spent_s < 20.5


def test_a_failure_is_one_reason_and_the_next_mode_is_tried():
    device = Device(80, {"default": "logits differ", "reduce-overhead": (40, 5)})
    found = device.choose(100_000)
    assert found.mode == "reduce-overhead"
    assert found.trials[0].reason == "logits differ"
    found = Device(80, {"default": "no Triton"}).choose(100_000)
    assert (found.mode, found.reason) == ("off", "default: no Triton")


def test_ranks_go_by_the_slowest_of_them():
    """Two ranks, of which this is the faster: what the other one says is as fast compiled."""

    def agree(values):
        if len(values) == 2:  # eager and compiled
            return [max(values[0], 0.1), max(values[1], 0.1)]
        return list(values)

    alone = Device(80, {"default": (40, 5)}).choose(10_000)
    found = Device(80, {"default": (40, 5)}).choose(10_000, agree=agree)
    assert (alone.mode, found.mode) == ("default", "off")


def test_a_failure_on_another_rank_is_one_here():
    device = Device(80, {"default": (40, 5)})
    fails = []

    def agree(values):
        if values == [0.0] and device.asked:
            fails.append(True)
            return [1.0]
        return list(values)

    found = device.choose(10_000, agree=agree)
    assert fails
    assert found.mode == "off"
    assert "another rank" in found.reason


def test_the_result_is_plain_values():
    content = Device(80, {"default": (61, 38)}).choose(5000).as_dict()
    assert content["trials"][0]["mode"] == "default"
    assert content["steps_left"] == 5000
