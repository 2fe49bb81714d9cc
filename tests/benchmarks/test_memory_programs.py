"""The programs that need a GPU: what they make of measurements, and a tiny run without one."""

import threading

import pytest
import torch

from benchmarks import finder, memory_peaks, presets, recovery, same_score, two_gpus
from benchmarks.batch_size_peers import Found, ultralytics_rule
from benchmarks.finder import GPUOPT, Judged, finder_rows
from benchmarks.memory_cells import Cell, largest_that_fits, train_cell
from benchmarks.memory_jobs import SharedMemory, TaskFailedError, run_task
from benchmarks.memory_peaks import PeakOfCell, StepClock, peak_rows
from benchmarks.presets import Fitted, preset_rows, preset_tasks
from benchmarks.recovery import difference, overhead_rows
from benchmarks.same_score import Scored, same_score_rows
from benchmarks.two_gpus import SPEED_CASES, Measured, speed_rows
from gpuopt.hardware import load_catalogue
from gpuopt.schema import CONF_DIR

TINY = Cell("test_vit", 32, precision="fp32", device="cpu")


def by_measure(rows):
    return {row.measure: row for row in rows}


@pytest.mark.parametrize("start", [1, 8, 60, 64, 65, 200])
def test_the_largest_batch_is_found_from_any_guess(start):
    tried = []

    def fits(samples):
        tried.append(samples)
        return samples <= 64

    assert largest_that_fits(fits, start) == 64
    assert len(tried) == len(set(tried)) <= 16


def test_nothing_fits_and_everything_fits():
    assert largest_that_fits(lambda n: False, 5) == 0
    assert largest_that_fits(lambda n: True, 5, most=40) == 40


def test_a_line_through_the_peaks_gives_ultralytics_answer():
    points = [(n, 0.9 + 0.5 * n) for n in (1, 2, 4, 8, 16)]
    assert ultralytics_rule(points, [], total_gib=20) == 22  # 60 % of 20 GiB
    assert ultralytics_rule(points[:3], [8, 16], total_gib=20) == 4  # not what has failed
    assert ultralytics_rule(points[:1], [2], total_gib=20) == 16


def judged(found, *, largest=64, survived=True):
    return Judged("net, 6 GiB", largest, found, survived, is_alone=True)


def test_the_finder_is_judged_in_every_column():
    good, peer = Found(60, 4, 0, 12.0), Found(32, 6, 1, 40.0)
    rows = finder_rows([judged({GPUOPT: good, "peer": peer})])
    found = by_measure(rows)
    assert found["found / true maximum, mean"].verdict == "met"
    assert {row.setting for row in rows if row.measure == "duration"} == {
        f"net, 6 GiB, {name}" for name in (GPUOPT, "peer")
    }
    bad = by_measure(finder_rows([judged({GPUOPT: Found(40, 5, 1, 50.0)}, survived=False)]))
    for name in ("found / true maximum, mean", "found / true maximum, least", "probes, most",
                 "out-of-memory errors", "duration",
                 "200 steps and a validation without running out"):  # fmt: skip
        assert bad[name].verdict == "missed", name


def test_one_sample_below_a_small_maximum_is_close_enough():
    rows = by_measure(finder_rows([judged({GPUOPT: Found(5, 4, 0, 1.0)}, largest=6)]))
    assert rows["found / true maximum, least"].verdict == "met"
    assert rows["found / true maximum, mean"].verdict == "missed"


def peak(level, samples, predicted, allocated, step_s):
    return PeakOfCell("net", "net", level, samples, predicted, allocated, allocated, step_s)


def test_predictions_are_judged_by_the_worst_cell_and_levels_compared_at_one_batch():
    peaks = [
        peak("none", 8, 100, 100, 1.0),
        peak("full", 8, 46, 50, 1.25),
        peak("none", 4, 7, 7, 1),
    ]
    rows = by_measure(peak_rows(peaks))
    assert rows["largest |predicted / allocated - 1|"].value == pytest.approx(0.08)
    assert rows["largest |predicted / allocated - 1|"].verdict == "missed"
    assert rows["cells within 5 %"].value == pytest.approx(2 / 3)
    assert rows["peak memory"].value == 0.5
    assert rows["step"].value == 1.25


def test_weights_are_compared_all_together():
    left = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    assert difference(left, left) == 0
    assert difference(left, {**left, "b": torch.tensor([3.5])}) == pytest.approx(0.1)


def test_overhead_needs_pairs_that_agree():
    quiet = overhead_rows("s", [1.0, 1.01, 0.99, 1.0, 1.0], [1.001, 1.011, 0.99, 1.0, 1.0])
    assert quiet[0].verdict == "met"
    assert overhead_rows("s", [1.0, 1.2, 0.9, 1.1, 1.0], [1.0] * 5)[0].verdict == "not decided"


def test_two_gpus_are_judged_by_steps_in_pairs():
    one, two = [100.0, 101.0, 99.0, 100.0, 100.0], [195.0, 196.0, 195.0, 194.0, 195.0]
    rows = speed_rows(SPEED_CASES[0], {"one": [Measured(one)], "two": [Measured(two)]})
    assert by_measure(rows)["images/s, two GPUs / one"].verdict == "met"
    assert speed_rows(SPEED_CASES[0], {"one": [Measured([], "died")], "two": []}) == []


def test_a_clock_counts_the_steps_of_a_trainer():
    clock = StepClock()
    train_cell(TINY, 4, steps=5, callbacks=[clock])
    assert len(clock.step_s) == 4
    assert clock.median_s() > 0


def test_emulated_cards_wait_until_the_gpu_has_their_memory():
    shared = SharedMemory([30.0])
    order = []

    def second():
        with shared.taken(24):
            order.append("second")

    with shared.taken(12) as device:
        assert device == 0
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    with shared.taken(80):  # more than there is: alone
        pass


def test_a_task_that_fails_says_why(tmp_path):
    with pytest.raises(TaskFailedError, match="unrecognized arguments"):
        run_task("finder", {}, tmp_path / "x.json", device=0, words=["--no-such-word"])


def test_every_preset_that_trains_has_a_task_for_both_modes():
    catalogue = load_catalogue(CONF_DIR / "gpu")
    tasks = preset_tasks(catalogue)
    for mode in ("highperf", "basic"):
        named = [name for task in tasks if task.mode == mode for name in task.presets]
        assert sorted(named) == sorted(set(catalogue) - {"auto", "cpu", "v100"})
    assert {task.precision for task in tasks if "rtx2060" in task.presets} == {"fp16"}


def test_a_preset_that_does_not_fit_misses_the_goal():
    good, bad = Fitted("a", 8, 9, 8, True, 0.9), Fitted("b", 8, 5, 8, False, 0.0)
    assert preset_rows([good])[0].verdict == "met"
    assert preset_rows([good, bad])[0].verdict == "missed"
    assert [row.value for row in preset_rows([good])[1:]] == [8, 8, 9]


def test_scores_are_compared_on_the_same_images():
    targets = ["a", "b"] * 60
    score = {"value": 1.0, "low": 1.0, "high": 1.0}
    whole = Scored(24, 64, score, targets, targets)
    rows = by_measure(same_score_rows("net", [whole, Scored(6, 16, score, targets, targets)]))
    assert rows["difference in macro-F1"].verdict == "met"
    assert rows["test images predicted alike"].value == 1
    worse = Scored(6, 16, score, targets, ["a"] * 120)
    rows = by_measure(same_score_rows("net", [whole, worse]))
    assert rows["difference in macro-F1"].verdict == "missed"


@pytest.mark.parametrize("program", [memory_peaks, recovery, presets, same_score])
def test_a_tiny_run_goes_through_without_a_gpu(program, tmp_path):
    path = program.main(["--quick", "--output", str(tmp_path)])
    assert path.parent == tmp_path


@pytest.mark.parametrize("program", [finder, memory_peaks, presets, recovery, same_score, two_gpus])
@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="has the GPUs that these ask for")
def test_without_a_gpu_nothing_is_measured(program, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(["--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert "CUDA device" in capsys.readouterr().err
