"""`gpuopt profiler` as people call it, on a machine without a GPU."""

import json
import shlex
import signal
import sys

import pytest
import torch

from gpuopt.config import compose_settings
from gpuopt.model import Classifier
from gpuopt.profiled_run import record, run_window
from gpuopt.profiler import _with_fold
from gpuopt.profiling import read_trace
from gpuopt.profiling.window import Window
from gpuopt.schema import to_profiler_config
from tests.faults.commands import Command

SMALL = ("steps=4", "warmup=1", "active=1")


@pytest.fixture
def config(tiny):
    def compose(*words):
        settings = compose_settings("profiler", [*tiny, *SMALL, *words])
        return to_profiler_config({**settings, "folds": None})

    return compose


def profile(cwd, warm, *words, **options):
    return Command("gpuopt.profiler", *words, cwd=cwd, warm=warm, **options).end()


@pytest.mark.slow
def test_the_command_leaves_a_new_folder_each_time_and_nothing_else(tmp_path, warm, tiny):
    words = (*tiny, "global_batch_size=32", "micro_batch_size=16", "output=logs/profiling")
    more = ("activities=[cpu,cuda]", "record_shapes=true", "with_stack=true")
    more += ("profile_memory=true", "logger=tensorboard", "fold=0", "folds=3")
    done = [
        profile(tmp_path, warm, *words, *SMALL, *more),
        profile(tmp_path, warm, *words, "wait=0", "warmup=1", "active=1"),
    ]
    assert [end.code for end in done] == [0, 0], done[0].stderr
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    first, second = sorted((tmp_path / "logs/profiling").iterdir())
    assert {path.name for path in first.iterdir()} == {
        "functions.csv",
        "memory_timeline.csv",
        "operators.csv",
        "operators_by_shape.csv",
        "profile.html",
        "summary.json",
        "trace.json.gz",
    }
    assert {path.suffix for path in second.iterdir()} == {".csv", ".gz", ".html", ".json"}
    summary = json.loads((first / "summary.json").read_text())
    assert done[0].stdout.startswith(summary["headline"])
    assert f"written: {first.relative_to(tmp_path)}/profile.html" in done[0].stdout
    assert "4 steps: 2 without the profiler, 1 to warm it up, 1 recorded" in done[0].stderr
    assert summary["facts"]["batch"] == "16 x 2 accumulated = 32 per step"
    assert summary["peak_bytes"] > 0
    assert any(phase["host_ms"] > 0 for phase in summary["phases"])


@pytest.mark.slow
def test_a_stop_leaves_nothing(tmp_path, start_command, tiny):
    words = (*tiny, "steps=100000", "trainer.max_epochs=100000", "output=p")
    command = start_command(tmp_path, "gpuopt.profiler", *words)
    command.wait_until((tmp_path / "p").is_dir)
    command.wait_until(lambda: "without the profiler" in command.said())
    command.send(signal.SIGTERM)
    end = command.end()
    assert (end.code, end.last_line) == (
        75,
        "gpuopt profiler: stopped by SIGTERM; the same command starts again",
    )
    assert list((tmp_path / "p").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=12"], "steps=12 is less than warmup=3 and active=10 together"),
        (["wait=5", "steps=100"], "steps=100 is not wait=5 + warmup=3 + active=10 = 18"),
        (["wait=soon"], "wait=soon is neither auto nor a whole number"),
        (["warmup=0"], "warmup=0: the profiler's own start would be recorded"),
        (["active=0"], "active=0 is out of range"),
        (["activities=[gpu]"], "activities=['gpu']: give [cpu], [cuda] or [cpu,cuda]"),
        (["activities=[]"], "activities=[]: give"),
        (["trainer.devices=2"], "trainer.devices=2: one device is profiled at a time"),
        (["run=latest"], "run is for gpuopt train"),
        (["resume=true"], "resume is for gpuopt train"),
        (["nsys=maybe"], "nsys=maybe is not one of true, false, marks"),
        (["nsys=true", "record_shapes=true"], "record_shapes=true: nsys records no shapes"),
        (["output=file"], "output=file cannot be made"),
        (["output="], "output= is empty"),
        (["data=image_folder", "data.root=nowhere"], "nowhere"),
        (["--profile_steps", "9"], "--profile_steps 9: options are key=value here: steps=9"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(tmp_path, light, words, message):
    (tmp_path / "file").write_text("mine")
    end = profile(tmp_path, light, "gpu=cpu", *words)
    assert (end.code, message in end.last_line) == (2, True), end.last_line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- nsys --------------------------------------------------------------------------------------


def nsys_line(stdout):
    return shlex.split(stdout.splitlines()[0])


def test_without_nsys_its_line_is_printed(tmp_path, light):
    words = ("gpu=cpu", "nsys=true", "output=logs", "mode=fast_optimized", "fold=0")
    end = profile(tmp_path, light, *words, environment={"PATH": str(tmp_path)})
    assert (end.code, end.last_line.count("nsys is not there")) == (2, 1)
    line = nsys_line(end.stdout)
    assert line[:2] == ["nsys", "profile"]
    program = line[line.index(sys.executable) :]
    assert program[1:] == [
        *("-m", "gpuopt.profiler", "gpu=cpu", "mode=fast_optimized", "fold=0", "nsys=marks")
    ]
    assert not list(tmp_path.rglob("logs/*"))


@pytest.fixture
def nsys(tmp_path):
    """A program of that name which writes down how it is called, and leaves a report or fails."""

    def install(ending):
        script = tmp_path / "bin/nsys"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{tmp_path}/called'\n"
            'for word in "$@"; do case $word in --output=*) place=${word#--output=};; esac; done\n'
            f"{ending}\n"
        )
        script.chmod(0o755)
        return {"PATH": f"{script.parent}:/usr/bin:/bin"}

    return install


def test_nsys_is_run_where_it_is(tmp_path, light, nsys):
    environment = nsys('echo report > "$place.nsys-rep"')
    words = ("gpu=cpu", "nsys=true", "output=logs", "cache_dir=with space", "with_stack=true")
    end = profile(tmp_path, light, *words, environment=environment)
    assert end.code == 0, end.stderr
    called = (tmp_path / "called").read_text().splitlines()
    assert called == nsys_line(end.stdout)[1:]
    assert called[-2:] == ["with_stack=true", "nsys=marks"]
    assert "cache_dir=with space" in called
    (report,) = (tmp_path / "logs").rglob("*.nsys-rep")
    assert f"written: {report.relative_to(tmp_path)}" in end.stdout


def test_a_failing_nsys_is_a_fault(tmp_path, light, nsys):
    environment = nsys("echo no permission >&2; exit 7")
    end = profile(tmp_path, light, "gpu=cpu", "nsys=true", "output=logs", environment=environment)
    assert end.code == 3
    assert "nsys ended with exit code 7" in end.last_line
    assert "no permission" in end.stderr
    assert list((tmp_path / "logs").iterdir()) == []


@pytest.mark.slow
def test_inside_of_nsys_steps_are_only_marked(tmp_path, warm, tiny):
    end = profile(tmp_path, warm, *tiny, *SMALL, "nsys=marks")
    assert end.code == 0, end.stderr
    assert end.stdout == "steps that are marked: 1\n"
    assert list(tmp_path.iterdir()) == []


# --- what is profiled is what is trained -------------------------------------------------------


def test_the_window_ends_with_a_shorter_run(config, tmp_path):
    seen = []
    profile, files = record(
        config("trainer.max_steps=4"),
        Window(90, 3, 2),
        tmp_path,
        lambda done, steps: seen.append((done, steps)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert profile.steps == 2
    choices = json.loads((tmp_path / "summary.json").read_text())["choices"]
    assert any("the run has 4 steps" in choice for choice in choices)
    assert files[0].name == "profile.html"


def test_a_slow_operator_in_the_model_is_named_first(config, tmp_path, monkeypatch):
    forward = Classifier.forward

    def slow(self, images):
        return forward(self, images) + 0 * torch.randn(2_000_000).sort().values[0]

    monkeypatch.setattr(Classifier, "forward", slow)
    profile, _ = record(config(), Window(0, 1, 1), tmp_path, lambda done, steps: None)
    assert profile.operators[0].name == "aten::sort"
    assert "aten::sort takes" in (tmp_path / "profile.html").read_text()
    assert len(read_trace(tmp_path / "trace.json.gz").steps) == 1


def test_callbacks_that_keep_or_stop_a_run_are_left_out(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["callbacks.engine_export.enabled=true", "callbacks.early_stopping.enabled=true"]
    words += ["callbacks.moving_average.enabled=true", "global_batch_schedule={1: 64}"]
    words += ["trainer.max_epochs=2", "learning_rate_rule=sqrt"]
    made = []

    def make(window, tell):
        from gpuopt.callbacks import NsysMarks

        made.append(NsysMarks(plain=window.wait, marked=window.active, on_step=tell))
        return made[0]

    run = run_window(config(*words), Window(3, 1, 1), make, lambda done, steps: None)
    assert run.marks is made[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, None)),
        (["fold=2"], (5, 2)),
        (["folds=3"], (3, 0)),
        (["folds=3", "fold=1"], (3, 1)),
    ],
)
def test_a_fold_is_trained_where_one_is_named(words, expected):
    composed = to_profiler_config(compose_settings("profiler", words))
    found = _with_fold(composed, [word.partition("=")[0] for word in words])
    assert (found.folds, found.fold) == expected
