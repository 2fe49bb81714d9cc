"""Which mode of torch.compile serves a goal."""

import pytest

from gpuopt.tuning.compile_answer import compile_answer
from gpuopt.tuning.goal import Figures

GIB = 2**30


def trial(mode, saving_s, spent_s, step_s=0.08, reason="figures"):
    eager_s = None if step_s is None else 0.1
    values = {"mode": mode, "eager_s": eager_s, "step_s": step_s, "reason": reason}
    return {**values, "least_saving_s": saving_s, "spent_s": spent_s, "payback_steps": 1}


FOUND = {
    "trials": [
        trial("default", 0.02, 30.0),
        trial("reduce-overhead", 0.03, 75.0, step_s=0.06),
        trial("max-autotune", None, 76.0, step_s=None, reason="the compiler failed"),
    ],
    "reason": "as it was found",
}


def answer(goal="throughput", batches=10_000, found=FOUND, **options):
    return compile_answer(found, goal, batches=batches, batches_per_epoch=500, **options)


def test_throughput_takes_what_pays_back_within_the_run():
    long, short, shorter = answer(), answer(batches=1501), answer(batches=1000)
    assert [found.mode for found in (long, short, shorter)] == [
        *("reduce-overhead", "reduce-overhead", "off")
    ]
    assert answer(batches=1500).mode == "off"  # both pay back after 1,500 batches
    assert "would pay back after 1,500 steps, 3 epochs, the run has 2 epochs" in shorter.reason
    assert "60 ms against 100 ms a batch" in long.reason
    assert "pay back after 1,500 steps, 3 epochs" in long.reason


def test_each_mode_has_its_own_time_to_compile_and_to_pay_back():
    modes = {mode.mode: mode for mode in answer().modes}
    assert [mode.compile_s for mode in modes.values()] == [30, 45, 1]
    assert modes["default"].payback_batches == 1500
    assert modes["reduce-overhead"].payback_batches == 1500
    found = answer(batches_per_step=4)
    assert found.payback_text(modes["default"]) == "375 steps, 3 epochs"
    assert found.payback_text(modes["max-autotune"]) == "the compiler failed"


def test_latency_takes_the_fastest_whatever_it_takes_to_compile():
    assert answer("latency", batches=1).mode == "reduce-overhead"


@pytest.mark.parametrize("goal", ["throughput", "latency"])
def test_what_is_not_surely_faster_is_left(goal):
    found = {"trials": [trial("default", -0.01, 30.0)], "reason": "not surely faster"}
    chosen = answer(goal, found=found)
    assert (chosen.mode, chosen.reason) == ("off", "not surely faster")
    assert chosen.payback_text(chosen.modes[0]).startswith("never")
    assert chosen.choice().evidence == "measured"


def test_memory_takes_the_least_that_was_measured():
    figures = {
        "off": Figures(100, 1, 4 * GIB),
        "default": Figures(110, 1, 3 * GIB),
        "reduce-overhead": Figures(120, 1, 5 * GIB),
    }
    chosen = answer("memory", figures=figures)
    assert chosen.mode == "default"
    assert "off 4.00 GiB, default 3.00 GiB" in chosen.reason
    slow = {**figures, "default": Figures(50, 1, 3 * GIB)}
    assert answer("memory", figures=slow, least_speed_ratio=0.6).mode == "off"


def test_without_any_mode_memory_stays_as_it_is():
    nothing = {"trials": [], "reason": "no compiler"}
    chosen = answer("memory", found=nothing, figures={"off": Figures(100, 1, GIB)})
    assert chosen.mode == "off"
    assert "none was compared" in chosen.reason
    assert answer(found=nothing).reason == "no compiler"


def test_plain_values_say_when_it_pays():
    values = answer().as_dict()
    assert values["modes"][0]["payback"] == "1,500 steps, 3 epochs"
