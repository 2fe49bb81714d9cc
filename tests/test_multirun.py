"""Sweeps: in this process with jobs that only pretend, and one with real ones."""

import csv
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from gpuopt import train
from gpuopt.multirun import register_sweeps
from gpuopt.parallel import JobEnd
from gpuopt.session import sweep_jobs
from gpuopt.session.sweep_folder import SweepFolder


def table(folder):
    with (Path(folder) / "sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def states(folder):
    return [row["state"] for row in table(folder)]


@pytest.fixture
def sweep(tmp_path, monkeypatch, tiny):
    """Run `gpuopt train` here; jobs end as `ends` says, or well, and are counted."""
    monkeypatch.chdir(tmp_path)
    started, ends = [], {}

    def pretend(command, folder, stop, *, prefix):
        number = int(folder.name)
        started.append((number, yaml.safe_load((folder / "config.yaml").read_text())))
        end = ends.pop(number, JobEnd(0, "", "", 1.0))
        if end.exit_code == 75:
            os.kill(os.getpid(), signal.SIGINT)
        elif end == JobEnd(0, "", "", 1.0):
            (folder / "results.json").write_text(json.dumps({"state": "finished"}))
        return end

    def run(*words):
        started.clear()
        GlobalHydra.instance().clear()
        defaults = [] if any(word.startswith("resume=") for word in words) else tiny
        monkeypatch.setattr(sys, "argv", ["train", *defaults, *words])
        with pytest.raises(SystemExit) as ended:
            train.main()
        return ended.value.code, list(started)

    monkeypatch.setattr(sweep_jobs, "run_job", pretend)
    # Hydra would switch off the loggers of this process, which other tests listen to.
    for module in ("hydra._internal.hydra", "hydra.core.utils"):
        monkeypatch.setattr(f"{module}.configure_log", lambda *_: None)
    run.ends = ends
    return run


@pytest.mark.parametrize(
    "words",
    [
        ("micro_batch_size=8,16,32", "-m"),
        ("-m", "micro_batch_size=8,16,32"),
        ("--multirun", "micro_batch_size=8,16,32"),
        ("micro_batch_size=8,16,32", "--multirun"),
    ],
)
def test_every_order_of_words_makes_exactly_the_jobs(sweep, words, capsys):
    code, started = sweep(*words)
    assert code == 0
    assert [(n, c["micro_batch_size"]) for n, c in started] == [(0, 8), (1, 16), (2, 32)]
    assert [c["global_batch_size"] for _, c in started] == [128] * 3
    (folder,) = Path("outputs/sweeps").iterdir()
    assert states(folder) == ["done"] * 3
    assert not Path("outputs/train").exists()
    assert "3 jobs done" in capsys.readouterr().out


def test_two_keys_make_all_combinations(sweep):
    code, started = sweep("-m", "micro_batch_size=8,16", "seed=1,2", "hydra.sweep.dir=S")
    assert code == 0
    pairs = [(c["micro_batch_size"], c["seed"]) for _, c in started]
    assert pairs == [(8, 1), (8, 2), (16, 1), (16, 2)]
    assert [row["seed"] for row in table("S")] == ["1", "2", "1", "2"]


def test_jobs_that_end_badly_are_rows_and_the_others_go_on(sweep, capsys):
    sweep.ends[0] = JobEnd(0, "SIGKILL", "", 1.0)
    sweep.ends[1] = JobEnd(3, "", "gpuopt train: no space left", 1.0)
    words = ("gpu=cpu,nosuch", "global_batch_size=64,many", "seed=1,-1", "hydra.sweep.dir=S")
    code, started = sweep("-m", *words)
    assert code == 3
    # Out of range before a process, no integer while composing, no option of a group.
    assert states("S") == ["killed", "refused", "refused", "refused", *["refused"] * 4]
    assert len(started) == 1
    reasons = [row["reason"] for row in table("S")]
    assert reasons[0].startswith("by SIGKILL")
    assert "seed=-1 is out of range" in reasons[1]
    assert "gpu=nosuch: no such option" in reasons[2]
    assert "many" in reasons[4]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("gpuopt train: 0 of 8 jobs done, 1 killed, 7 refused; reasons in S/")


def test_a_failed_job_is_told_with_its_last_line(sweep):
    sweep.ends[0] = JobEnd(3, "", "gpuopt train: no space left", 1.0)
    assert sweep("-m", "seed=1,2", "hydra.sweep.dir=S")[0] == 3
    assert states("S") == ["failed", "done"]
    assert table("S")[0]["reason"] == "no space left"


def test_a_sweep_of_refused_jobs_only_is_bad_input(sweep, capsys):
    code, started = sweep("-m", "micro_batch_size=-1,-2", "hydra.sweep.dir=S")
    assert (code, started) == (2, [])
    assert states("S") == ["refused", "refused"]
    assert not (Path("S/0") / "checkpoints").exists()


@pytest.mark.parametrize("word", ["run=here", "no_such_key", "resume=nowhere"])
def test_bad_words_of_a_sweep_leave_nothing_behind(sweep, word):
    assert sweep("-m", "seed=1,2", word) == (2, [])
    assert not [path for path in Path().rglob("*") if path.is_file()]
    assert not list(Path().glob("outputs/sweeps/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["joblib", "hydra.launcher.n_jobs=many"], "hydra.launcher.n_jobs=many"),
        (["submitit_local", "hydra.launcher.tasks_per_node=2"], "a job is one task"),
        (["submitit_local", "hydra.launcher.nodes=2"], "hydra.launcher.nodes=2"),
        (["submitit_slurm"], "this machine has no srun"),
        (["submitit"], "hydra/launcher=submitit: no such option"),
    ],
)
def test_what_a_launcher_cannot_do_is_refused_in_one_line(
    sweep, capsys, monkeypatch, words, message
):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra sweep")
    monkeypatch.setattr("shutil.which", lambda name: None)
    code, started = sweep("-m", "seed=1,2", f"hydra/launcher={words[0]}", *words[1:])
    assert (code, started) == (2, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpuopt train: ")
    assert message in line
    assert not list(Path().glob("outputs/sweeps/*"))


def launcher_class(package, name):
    register_sweeps()  # Hydra imports its plugins anew when it looks for them
    path = f"hydra_plugins.hydra_{package}_launcher.{package}_launcher"
    return getattr(pytest.importorskip(path, reason="needs the extra sweep"), name)


@pytest.mark.parametrize(
    ("words", "is_told"),
    [(["gpu=auto"], True), (["gpu=auto", "hydra.launcher.gpus_per_node=1"], False), ([], False)],
)
def test_jobs_of_submitit_that_get_no_gpu_are_told(sweep, capsys, monkeypatch, words, is_told):
    monkeypatch.setattr(launcher_class("submitit", "LocalLauncher"), "launch", lambda *_, **__: [])
    code, _ = sweep("-m", "seed=1,2", "hydra/launcher=submitit_local", *words)
    assert code == 3  # nothing was run
    told = "add hydra.launcher.gpus_per_node=1\n" in capsys.readouterr().err
    assert told == is_told


def test_ctrl_c_on_another_launcher_stops_the_jobs_of_this_machine(sweep, monkeypatch, capsys):
    def launch(launcher, jobs, initial_job_idx):
        folder = SweepFolder(Path("S"))
        folder.write_job(replace(folder.jobs[0], state="running"))
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher_class("joblib", "JoblibLauncher"), "launch", launch)
    assert sweep("-m", "seed=1,2", "hydra/launcher=joblib", "hydra.sweep.dir=S") == (75, [])
    assert states("S") == ["stopped", "waiting"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("sweep stopped, 0 of 2 jobs done; go on with -m resume=S")


def test_ctrl_c_stops_the_sweep_and_resume_runs_only_what_is_missing(sweep, capsys):
    sweep.ends[1] = JobEnd(75, "", "gpuopt train: saved", 1.0)
    code, started = sweep("-m", "seed=1,2,3", "hydra.sweep.dir=S")
    assert code == 75
    assert [n for n, _ in started] == [0, 1]
    assert states("S") == ["done", "stopped", "waiting"]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("sweep stopped, 1 of 3 jobs done; go on with -m resume=S")
    code, started = sweep("-m", "resume=S")
    assert code == 0
    assert [(n, c["seed"]) for n, c in started] == [(1, 2), (2, 3)]
    assert states("S") == ["done"] * 3
    assert sweep("-m", "resume=S") == (0, [])


def test_a_started_job_keeps_its_own_settings(sweep):
    sweep.ends[0] = JobEnd(0, "SIGKILL", "", 1.0)
    sweep("-m", "seed=1,2", "hydra.sweep.dir=S")
    stored = yaml.safe_load(Path("S/0/config.yaml").read_text())
    Path("S/0/config.yaml").write_text(yaml.safe_dump({**stored, "num_workers": 3}))
    _, started = sweep("-m", "resume=S")
    assert [(n, c["num_workers"]) for n, c in started] == [(0, 3)]


def test_without_m_several_values_are_refused(sweep):
    code, started = sweep("seed=1,2")
    assert (code, started) == (2, [])


@pytest.mark.slow
def test_killed_refused_and_interrupted_jobs_then_resumed(tmp_path, tiny, start_command):
    swept = "trainer.gradient_clip_norm=1.0,-1,2.0"
    words = (*tiny, "trainer.max_epochs=3", "logger=tensorboard", swept, "-m", "hydra.sweep.dir=S")
    sweep = start_command(tmp_path, "gpuopt.train", *words, children=2)
    sweep.wait_until((tmp_path / "S/0/checkpoints/last.ckpt").exists)
    (job,) = sweep.children()
    os.kill(job, signal.SIGKILL)
    sweep.wait_until((tmp_path / "S/2/checkpoints/last.ckpt").exists)
    sweep.send(signal.SIGINT)
    end = sweep.end()
    assert end.code == 75, end.stderr
    assert "go on with -m resume=S" in end.last_line
    rows = table(tmp_path / "S")
    assert [row["state"] for row in rows] == ["killed", "refused", "stopped"]
    assert rows[0]["reason"].startswith("by SIGKILL")
    assert "out of range" in rows[1]["reason"]
    assert "saved" in rows[2]["reason"]

    # One of its two jobs is forked, the other one started as ever.
    end = start_command(tmp_path, "gpuopt.train", "-m", "resume=S", children=1).end(250)
    assert end.code == 3, end.stderr
    assert "2 of 3 jobs done, 1 refused" in end.last_line
    rows = table(tmp_path / "S")
    assert [row["state"] for row in rows] == ["done", "refused", "done"]
    for row in (rows[0], rows[2]):
        assert float(row["f1"]) > 0
        assert float(row["samples_per_second"]) > 0
        assert row["peak_memory_gib"] == ""
    assert "resuming from" in (tmp_path / "S/2/train.log").read_text()
    events = (tmp_path / "S/0/tensorboard").rglob("events.*")
    (row,) = [text for path in events if b"session_start_info" in (text := path.read_bytes())]
    assert b"trainer.gradient_clip_norm" in row  # what was swept
    assert b"test/f1" in row
