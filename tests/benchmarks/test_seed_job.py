import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import device_rate, job_views, seed_job
from benchmarks.device_rate import DeviceRate
from benchmarks.fold_run import FoldRun
from benchmarks.job import Job, used_engines
from benchmarks.job_views import Run, view_rows
from benchmarks.record import Row
from benchmarks.watched_prediction import WatchedPrediction
from gpuopt.config import compose_settings
from gpuopt.data import decode_image
from gpuopt.data.drawing import DocumentSet
from gpuopt.predict import predict
from gpuopt.schema import to_predict_config
from tests.benchmarks.test_benchmarks import run_quick

WATCHED = WatchedPrediction(40.0, 6.0, 2.0, 3.0, 27.0, 2.0, 0.9, ())
RATE = DeviceRate(100.0, 2500.0, 256, 128, (2.56,))
PEAK = r"peak memory of .*, 15 views"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One folder for all tests here: files and run are made once."""
    folder = tmp_path_factory.getbasetemp() / "seed_job_cache"
    monkeypatch.setattr("benchmarks.job.default_cache_dir", lambda: folder)
    return folder


def predict_here(words, output, environment=None, command=()):
    """Stand in for the command in a new process, which takes as long as all tests here."""
    predict(to_predict_config(compose_settings("predict", [*words, f"output={output}"])), output)
    if command:
        assert command[:3] == (sys.executable, "-m", "benchmarks.peak_memory")
        output.with_name("peak.json").write_text(json.dumps({"peak_bytes": 2**30}))
    return dataclasses.replace(WATCHED, lines=("engine=onnx (given: onnx fp32 verified)",))


def test_the_command_and_the_device_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(seed_job, "device_rate_in_new_process", lambda w, s, e: RATE)
    monkeypatch.setattr(seed_job, "watch_prediction", predict_here)
    content, rows = run_quick(seed_job, tmp_path, "--parts", "eager", "--device", "cpu")
    assert rows["whole command"]["value"] == 40.0
    assert rows["whole command"]["goal"] is None  # that of an H200
    stages = [row["value"] for name, row in rows.items() if name.startswith("of it: ")]
    assert sum(stages) == rows["whole command"]["value"]
    assert rows["the device alone"]["value"] == pytest.approx(12 / 100)
    share = rows["rate of the whole command / of the device alone"]["value"]
    assert share == pytest.approx(12 / 40 / 100)
    between = rows["rate between first and last batch / of the device alone"]["value"]
    assert between == pytest.approx(12 * 0.9 / 27 / 100)
    assert "random initial weights" in rows["whole command"]["setting"]
    assert content["details"]["eager"]["device"]["chunk_size"] == 128


def test_a_real_command_is_watched(tmp_path, monkeypatch):
    def here(words, seconds, environment):
        return device_rate.device_rate(words, seconds)

    monkeypatch.setattr(seed_job, "device_rate_in_new_process", here)
    content, rows = run_quick(seed_job, tmp_path, "--parts", "eager", "--device", "cpu")
    watched = content["details"]["eager"]["command"]
    assert watched["lines"][-1].startswith("12 predictions in ")
    assert 0 < watched["start_s"] < watched["wall_s"]
    assert len(content["details"]["eager"]["device"]["batch_s"]) >= 3
    assert 0 < rows["rate of the whole command / of the device alone"]["value"] < 1


def test_the_device_alone_does_all_views_and_models(cache, monkeypatch):
    arguments = argparse.Namespace(
        model="test_vit", image_size=32, folds=2, device="cpu", quick=True
    )
    job = Job.prepare(arguments)
    calls, clock = [], iter(np.arange(100) / 4)
    forward = "benchmarks.opened_run.TtaPredictor.of_each_model"
    monkeypatch.setattr(forward, lambda self, images: calls.append((self, images)))
    words = job.words(12, "tta=essential", "engine=eager", "batch_size=8")
    found = device_rate.device_rate(words, 1.0, lambda: float(next(clock)))
    assert found.batch_s == (0.25, 0.25, 0.25, 0.25)
    assert len(calls) == 1 + 4  # the first loads kernels
    predictor, images = calls[0]
    assert len(predictor.views) == 5
    assert images.shape == (8, 3, 32, 32)
    # The job's own images: a card whose power is limited is slower with noise.
    file = sorted(job.images(12).glob("*.jpg"))[3]
    assert np.array_equal(images[3].numpy(), decode_image(file, 32))
    assert found.images_per_second == pytest.approx(8 / 0.25)
    assert found.forwards_per_second == pytest.approx(8 / 0.25 * 5 * 2)


def test_each_start_of_an_engine_is_a_command(tmp_path, cache, monkeypatch):
    starts = []

    def start(words, output, environment):
        engines = cache / "benchmarks" / "seed_job" / "cache" / "engines"
        starts.append((output.parent.name, "engine=onnx" in words, engines.exists()))
        engines.mkdir(parents=True, exist_ok=True)
        return dataclasses.replace(WATCHED, lines=("engine=onnx (given: onnx fp32 verified)",))

    monkeypatch.setattr(seed_job, "device_rate_in_new_process", lambda w, s, e: RATE)
    monkeypatch.setattr(seed_job, "watch_prediction", start)
    content, _ = run_quick(seed_job, tmp_path, "--parts", "cold", "warm", "--device", "cpu")
    assert starts == [("onnx_first_start", True, False), ("onnx_second_start", True, True)]
    settings = [row["setting"] for row in content["rows"] if row["measure"] == "whole command"]
    assert [re.findall(r"engine onnx, (\w+) start", setting) for setting in settings] == [
        ["first"],
        ["second"],
    ]


def test_a_second_start_that_builds_is_no_result(tmp_path, monkeypatch):
    lines = ("engine=onnx for test_vit built in 3 s: not in the cache",)
    again = dataclasses.replace(WATCHED, lines=lines)
    monkeypatch.setattr(seed_job, "watch_prediction", lambda *_: again)
    with pytest.raises(RuntimeError, match="no second start, as an engine was made"):
        run_quick(seed_job, tmp_path, "--parts", "warm", "--device", "cpu")


def test_a_part_that_fails_costs_only_itself(tmp_path, monkeypatch):
    row = Row("fine", "here", 1.0, "s")
    monkeypatch.setitem(seed_job.PARTS, "eager", lambda *_: 1 / 0)
    monkeypatch.setitem(seed_job.PARTS, "warm", lambda *_: ([row], {"raw": 1}))
    with pytest.raises(RuntimeError, match=r"these parts failed: .*eager.*division by zero"):
        run_quick(seed_job, tmp_path, "--parts", "eager", "warm", "--device", "cpu")
    (file,) = tmp_path.glob("*.json")
    content = json.loads(file.read_text())
    assert [row["measure"] for row in content["rows"]] == ["fine"]
    assert content["details"]["errors"] == {"eager": "ZeroDivisionError: division by zero"}


def test_without_a_first_start_there_is_no_second(tmp_path, monkeypatch):
    monkeypatch.setitem(seed_job.PARTS, "cold", lambda *_: 1 / 0)
    monkeypatch.setitem(seed_job.PARTS, "warm", lambda *_: pytest.fail("compiles for minutes"))
    with pytest.raises(RuntimeError, match=r"'warm': 'RuntimeError: no first start"):
        run_quick(seed_job, tmp_path, "--parts", "cold", "warm", "--device", "cpu")


def test_an_engine_that_was_refused_is_not_said_to_have_predicted():
    lines = [
        "engine=aot_inductor for convnext_base built in 60 s: not in the cache",
        "engine=eager (given: aot_inductor: rejected before)",
        "engine=compiled (measured: compiled fp16 verified); pin with engine=...",
    ]
    assert used_engines(lines) == ["eager", "compiled"]
    assert seed_job._engine_in_words("aot_inductor", lines).endswith("eager and compiled predicted")
    assert seed_job._engine_in_words("compiled", lines[2:]) == "engine compiled"


@pytest.mark.parametrize(
    ("wall_s", "verdicts"), [(39.0, ("met", "met")), (41.0, ("missed", "missed"))]
)
def test_goals_are_for_the_second_start_of_the_whole_job_on_a_gpu(tmp_path, wall_s, verdicts):
    run = FoldRun("convnext_base", 384, 5, DocumentSet(0, 850, 3140, 900), tmp_path)
    job, watched = Job(tmp_path, run, "cuda"), dataclasses.replace(WATCHED, wall_s=wall_s)
    rate = dataclasses.replace(RATE, images_per_second=3140 / 0.85 / 40)
    measured = seed_job.job_rows("engine x", watched, rate, job, 3140, is_warm=True)
    goals = [row for row in measured if row.goal]
    assert [row.goal for row in goals] == ["<= 40", ">= 0.85"]
    assert tuple(row.verdict for row in goals) == verdicts
    for other in (
        seed_job.job_rows("engine x", watched, rate, job, 3140),
        seed_job.job_rows("engine x", watched, rate, job, 1000, is_warm=True),
    ):
        assert not [row for row in other if row.goal]


def test_fifteen_views_are_compared_under_two_caps(tmp_path, monkeypatch):
    monkeypatch.setattr(job_views, "watch_prediction", predict_here)
    content, rows = run_quick(seed_job, tmp_path, "--parts", "tta15", "--device", "cpu")
    assert rows["images of the same class"]["value"] == 1
    assert rows["largest difference of a probability"]["value"] == 0
    assert rows["peak memory, 15 views / 1 view"]["value"] == 1
    assert set(content["details"]["tta15"]) == {
        *(f"{name}, 6144 MiB" for name in ("none", "essential", "doc15", "doc15 in fp32")),
        *(f"{name}, 24576 MiB" for name in ("doc15", "doc15 in fp32")),
    }


def view_run(seconds, peak_gib, classes="ab"):
    watched = dataclasses.replace(WATCHED, wall_s=seconds, models_s=1, batches_s=seconds - 10)
    names = [str(row) for row in range(len(classes))]
    shares = np.array([[0.5, 0.5]] * len(classes))
    return Run(watched, int(peak_gib * 2**30), dict(zip(names, classes, strict=True)), shares)


def test_memory_time_and_classes_have_goals_on_a_gpu():
    small = {"none": view_run(13, 4.0), "essential": view_run(20, 4.0)}
    large, same = view_run(43, 20.0), (view_run(9, 4.0), view_run(9, 20.0))
    rows = view_rows(small | {"doc15": view_run(43, 4.1)}, large, same, "x", is_gpu=True)
    found = {row.measure: (round(row.value, 3), row.verdict) for row in rows if row.goal}
    assert found == {
        "peak memory, 15 views / 1 view": (1.025, "met"),
        "time, 15 views / 5 views": (2.15, "met"),
        "time without start and end, 15 views / 5 views": (3.091, "met"),
        "images of the same class": (1, "met"),
    }
    other = view_run(45, 20.0, classes="ac")
    pair = view_run(9, 4.0), other
    rows = view_rows(small | {"doc15": view_run(45, 4.3)}, other, pair, "x", is_gpu=True)
    assert [row.verdict for row in rows if row.goal] == ["missed", "met", "missed", "missed"]


def test_memory_is_compared_with_the_chunk_of_fifteen_views_and_classes_in_fp32(monkeypatch):
    asked = []

    def run(job, images, policy, memory_mib, *more):
        asked.append((images, policy, memory_mib, *more))
        chosen = dataclasses.replace(WATCHED, lines=("a line", "tta.chunk_size=84 (predicted: 84)"))
        return dataclasses.replace(view_run(9, 4.0), watched=chosen)

    monkeypatch.setattr(job_views, "_run", run)
    documents = FoldRun("m", 32, 5, DocumentSet(0, 500, 600, 90), Path())
    arguments = argparse.Namespace(view_images=512)
    job_views.measure_views(Job(Path(), documents, "cuda"), arguments)
    assert asked == [
        (512, "doc15", 6144),
        (512, "none", 6144, "tta.chunk_size=84"),
        (512, "essential", 6144, "tta.chunk_size=84"),
        (512, "doc15", 24576),
        (64, "doc15", 6144, "precision=fp32"),
        (64, "doc15", 24576, "precision=fp32"),
    ]


def test_more_files_than_there_are_is_refused(tmp_path):
    arguments = argparse.Namespace(
        model="test_vit", image_size=32, folds=2, device="cpu", quick=True
    )
    job = Job.prepare(arguments)
    assert len(list(job.images(3).iterdir())) == 3
    with pytest.raises(ValueError, match="17 images were asked for, and 16 are there"):
        job.images(17)
