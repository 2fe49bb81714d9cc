import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from benchmarks import __main__ as entry
from benchmarks import (
    digits_tta,
    freed_memory,
    highperf_gpu,
    loader,
    quickstart,
    startup,
    step_setting,
    step_time,
    tune_loader,
)
from benchmarks.highperf_gpu import Job, Outcome, run_jobs
from benchmarks.jpeg_files import FILE_SETS, make_files
from benchmarks.record import Row
from benchmarks.step_setting import StepSetting
from gpuopt.data import decode_image

FIELDS = {
    *("schema", "name", "date_utc", "command", "quick", "settings"),
    *("hardware", "versions", "rows", "details"),
}


def run_quick(program, tmp_path, *words):
    path = program.main(["--quick", "--output", str(tmp_path), *words])
    content = json.loads(path.read_text())
    assert set(content) == FIELDS
    assert content["quick"]
    assert path.name.startswith(f"{content['name']}_")
    for row in content["rows"]:
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]
        assert (row["goal"] is None) == (row["verdict"] is None)
    return content, {row["measure"]: row for row in content["rows"]}


def test_step_time_compares_with_both_peers(tmp_path):
    content, rows = run_quick(step_time, tmp_path, "--control", "--device", "cpu")
    assert set(rows) == {
        *("step, gpuopt", "step, bare loop", "step, timm loop", "step, bare loop again"),
        *("step, gpuopt / bare loop", "step, gpuopt / timm loop"),
        "step, bare loop again / bare loop",
    }
    segments = content["details"]["segment_step_s"]
    assert all(len(times) == 2 and min(times) > 0 for times in segments.values())
    assert content["details"]["ratios"]["gpuopt / bare loop"]["pairs"] == 2


def test_loader_compares_on_both_kinds_of_files(tmp_path):
    content, rows = run_quick(loader, tmp_path, "--device", "cpu")
    assert {row["setting"] for row in content["rows"]} == {
        f"{name}, 32 px, 0 workers, cpu" for name in FILE_SETS
    }
    assert rows["loading, gpuopt"]["unit"] == "images/s"
    assert rows["loading, gpuopt / ImageFolder"]["goal"] == ">= 1.5"
    assert "loading, gpuopt / ImageFolder, v2 transforms" in rows


def test_the_search_for_a_loader_is_compared_with_the_grid(tmp_path):
    content, rows = run_quick(tune_loader, tmp_path, "--data", "slow to decode")
    (speed,) = (row for measure, row in rows.items() if measure.startswith("speed, found"))
    assert (speed["goal"], rows["time, search / grid"]["goal"]) == (">= 0.97", "<= 0.3333")
    assert rows["probes of the search, most"]["value"] <= 4
    rounds = content["details"]["rounds"]["slow to decode"]
    assert len(rounds) == 2
    assert {found["best"] for found in rounds} <= {0, 1}
    assert all(found["best_s"] > 0 and found["chosen_s"] > 0 for found in rounds)


def test_freed_memory_compares_processes_of_both_kinds(tmp_path):
    content, rows = run_quick(freed_memory, tmp_path)
    assert rows["step, memory kept"]["value"] > 0
    runs = content["details"]["runs"]
    assert [len(found) for found in runs.values()] == [2, 2]
    kept, freed = ([run["step_s"] for run in found] for found in runs.values())
    ratio = rows["speed, memory kept / given back"]["value"]
    assert ratio == pytest.approx((freed[0] * freed[1] / (kept[0] * kept[1])) ** 0.5)


def test_startup_times_real_processes(tmp_path):
    _, rows = run_quick(startup, tmp_path)
    assert rows["gpuopt --help, median"]["value"] > 0
    assert rows["gpuopt --help, slowest"]["goal"] == "<= 0.5"


def test_reports_are_timed_with_nothing_cached(tmp_path, monkeypatch):
    reports = [start for start in startup.starts() if "gpuopt check" in start.name]
    assert {start.goal for start in reports} == {"<= 10"}
    assert {start.words[-2] for start in reports} == {"cache_dir=cache"}
    drivers = next(start for start in reports if start.words[-1] == "report=drivers")
    found = []
    run = startup.run_timed

    def run_noting(words, folder):
        found.append(list(folder.iterdir()))
        return run(words, folder)

    monkeypatch.setattr(startup, "run_timed", run_noting)
    assert len(startup.time_starts(drivers, 1, with_warmup=False)) == 1
    assert found == [[]]


@pytest.mark.slow
def test_digits_tta_reads_both_scores(tmp_path):
    _, rows = run_quick(digits_tta, tmp_path)
    assert len(rows) == 3
    assert all("Digits" in row["setting"] for row in rows.values())


def test_quickstart_runs_the_command_and_reads_its_results(tmp_path):
    content, rows = run_quick(quickstart, tmp_path)
    parts = [row["value"] for name, row in rows.items() if row["unit"] == "s"]
    assert parts[0] == pytest.approx(sum(parts[1:]))
    assert rows["macro-F1 without TTA"]["low"] is not None
    assert content["details"]["settings"][:2] == ["gpu=rtx3060", "tta=essential"]


def test_highperf_measures_everything_on_a_cpu(tmp_path):
    content, rows = run_quick(highperf_gpu, tmp_path, "--device", "cpu")
    assert content["details"]["errors"] == {}
    assert content["details"]["skipped"] == []
    settings = {row["setting"] for row in content["rows"]}
    assert any("compiled (eager)" in setting for setting in settings)
    assert {setting.partition(" ")[0] for setting in settings} == {
        *("test_convnext", "test_efficientnet", "test_resnet"),
    }
    assert rows["training"]["unit"] == "images/s"
    assert len(content["details"]["segment_step_s"]) == 7


def test_highperf_needs_a_gpu_unless_it_is_tested(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        highperf_gpu.main(["--device", "cpu", "--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_measurement_can_be_chosen_by_a_part_of_its_name(tmp_path, capsys):
    content, _ = run_quick(highperf_gpu, tmp_path, "--device", "cpu", "--only", "resnet")
    assert len(content["details"]["segment_step_s"]) == 1
    with pytest.raises(SystemExit, match="2"):
        run_quick(highperf_gpu, tmp_path, "--device", "cpu", "--only", "no such model")
    assert "no measurement's name contains no such model" in capsys.readouterr().err


def test_a_measurement_that_fails_costs_only_itself(capsys):
    row = Row("m", "s", 1.0, "ms")
    clock_s = iter([0.0, 10.0, 20.0])
    jobs = [
        Job("broken", 5, lambda: 1 / 0),
        Job("too long", 500, lambda: ([row], {})),
        Job("fine", 5, lambda: ([row], {"gpuopt": [1.0]})),
    ]
    outcome, kept = Outcome([], {}, {}, []), []
    run_jobs(jobs, outcome, 100.0, lambda now: kept.append(len(now.rows)), lambda: next(clock_s))
    assert outcome.rows == [row]
    assert outcome.step_s == {"fine": {"gpuopt": [1.0]}}
    assert outcome.errors == {"broken": "ZeroDivisionError: division by zero"}
    assert outcome.skipped == ["too long"]
    assert kept == [0, 0, 1]  # saved after each, whatever became of it
    capsys.readouterr()


def test_highperf_takes_the_micro_batch_that_gpuopt_picks(monkeypatch, capsys):
    base, outcome = StepSetting("test_vit", 32, 96, 96, "fp32", "cpu"), Outcome([], {}, {}, [])
    chosen = highperf_gpu._chosen_by_gpuopt(base, outcome)
    assert (chosen.micro_batch_size, chosen.accumulate) == (32, 3)  # gpuopt's limit on a CPU
    assert outcome.errors == {}
    monkeypatch.setattr(highperf_gpu, "make_plan", lambda **settings: 1 / 0)
    assert highperf_gpu._chosen_by_gpuopt(base, outcome).micro_batch_size == 128
    assert "ZeroDivisionError" in outcome.errors["micro-batch by gpu=auto"]
    capsys.readouterr()


@pytest.mark.parametrize("name", FILE_SETS)
def test_files_lie_in_class_folders(tmp_path, name):
    root = make_files(name, tmp_path, 20)
    train, val = (sorted(root.glob(f"{part}/*/*.jpg")) for part in ("train", "val"))
    assert len(train) == 20
    classes = {file.parent.name for file in train}
    assert len(classes) >= 2
    assert [file.parent.name for file in val] == sorted(classes)
    with Image.open(train[0]) as image:
        long_side = max(image.size)
    assert long_side == 384 if name == "documents" else 850 <= long_side < 950


@pytest.mark.parametrize("size", [(640, 900), (900, 640), (50, 50)])
def test_the_peers_see_the_picture_that_gpuopt_sees(tmp_path, size):
    columns, rows = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 9, size[1]))
    pixels = np.stack([np.sin(columns), np.cos(rows), np.sin(columns + rows)], 2) * 100 + 128
    path = tmp_path / "smooth.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    ours = decode_image(path, 64).astype(float)
    picture = Image.open(path)
    pil = np.asarray(loader.Letterbox(64)(picture)).transpose(2, 0, 1)
    tensor = loader.Letterbox(64)(v2.functional.to_image(picture)).numpy()
    assert np.abs(pil - ours).mean() < 2.5
    assert np.abs(tensor - ours).mean() < 2.5


def test_the_loaders_deliver_the_same_batches(tmp_path):
    root = make_files("documents", tmp_path / "files", 12)
    options = {"image_size": 32, "batch_size": 5, "workers": 0, "device": "cpu"}
    passes = loader.make_passes(root, tmp_path / "cache", **options)
    assert [load(1) for load in passes.values()] == [12, 12, 12]


def test_a_pass_that_loads_too_little_is_no_measurement():
    passes = {"gpuopt": lambda number: 8, "peer": lambda number: 7}
    with pytest.raises(RuntimeError, match="peer loaded 7 of 8"):
        loader.time_passes(passes, 2, 8, lambda: None)


def test_a_loader_twice_as_fast_is_reported_so():
    now_s = [0.0]

    def taking(duration_s):
        def load(number):
            now_s[0] += duration_s * (1 + 0.001 * number)
            return 8

        return load

    passes = {"gpuopt": taking(1.0), "peer": taking(2.0)}
    pass_s = loader.time_passes(passes, 6, 8, lambda: None, lambda: now_s[0])
    speed, _, ratio = loader.loader_rows(pass_s, 8, "here")
    assert speed.value == pytest.approx(8.0, rel=0.01)
    assert ratio.value == pytest.approx(2.0)
    assert ratio.verdict == "met"


def test_a_command_that_ends_otherwise_is_no_measurement():
    start = startup.Start("exit 3", (sys.executable, "-c", "raise SystemExit('no')"), 0)
    with pytest.raises(RuntimeError, match="exit 3 ended with 1: no"):
        startup.time_starts(start, 1, with_warmup=False)


def test_the_slowest_start_decides():
    start = startup.Start("x", (), 0, "<= 0.5")
    median, slowest = startup.start_rows(start, [0.2, 0.3, 0.6])
    assert (median.value, median.goal) == (0.3, None)
    assert (slowest.value, slowest.verdict) == (0.6, "missed")
    assert startup.start_rows(start, [0.2])[1].verdict == "met"


@pytest.mark.parametrize(
    ("wall_s", "cpus", "accelerator", "verdict"),
    [
        (299.0, 2, "cpu", "met"),
        (301.0, 2, "cpu", "missed"),
        (9.0, 8, "cpu", None),
        (9.0, 2, "cuda", None),
    ],
)
def test_the_quickstart_goal_is_for_two_cpus(wall_s, cpus, accelerator, verdict):
    score = {"value": 0.9, "low": 0.88, "high": 0.92}
    results = {
        "plan": {"image_size": 128, "accelerator": accelerator, "precision": "fp32"},
        "durations_s": {"data": 1.0, "training": 2.0, "test": 3.0},
        "metrics": {
            **dict.fromkeys(("macro_f1", "macro_f1_tta", "macro_f1_difference"), score),
            "tta": "essential",
        },
        "data": {"name": "Documents"},
        "model": "m",
    }
    rows = quickstart.quickstart_rows(results, wall_s, 1.5, cpus=cpus)
    assert rows[0].verdict == verdict
    assert sum(row.value for row in rows[1:] if row.unit == "s") == pytest.approx(wall_s)
    assert [row.low for row in rows if not row.unit] == [0.88] * 3


def test_several_programs_run_in_processes_of_their_own(monkeypatch, capsys):
    started = []

    def fake(words, check):
        started.append(words[3:])
        return subprocess.CompletedProcess(words, int(words[3] == "loader"))

    monkeypatch.setattr(entry.subprocess, "run", fake)
    assert entry.main(["startup", "loader", "--output", "x"]) == 1
    assert started == [["startup", "--output", "x"], ["loader", "--output", "x"]]
    assert "failed: loader" in capsys.readouterr().err
    started.clear()
    assert entry.main([]) == 1
    names = ["step_time", "loader", "freed_memory", "startup", "quickstart", "digits_tta"]
    assert [words[0] for words in started] == names


def test_an_unknown_program_is_refused(capsys):
    assert entry.main(["speed"]) == 2
    assert "no program 'speed'" in capsys.readouterr().err


def test_a_run_elsewhere_leaves_the_page_alone(tmp_path, monkeypatch, capsys):
    written = []
    monkeypatch.setattr(entry, "write_table", written.append)
    assert entry.main(["startup", "--quick", "--output", str(tmp_path)]) == 0
    assert not written
    assert entry.main(["table"]) == 0
    assert written == [entry.RESULTS]
    capsys.readouterr()


def test_workers_fit_the_shared_memory(monkeypatch):
    class Usage:
        free = 64 * 2**20

    monkeypatch.setattr(step_setting.shutil, "disk_usage", lambda path: Usage)
    assert step_setting.affordable_workers("cpu", 224, 32) == 0
    assert step_setting.affordable_workers("cuda", 384, 256) == 0
    Usage.free = 64 * 2**30
    assert step_setting.affordable_workers("cuda", 384, 256) == 4
