"""Runs under SLURM: its variables and its commands are put in place, its signals are sent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from gpuopt.storage.checkpoint import read_checkpoint

SCRIPT = Path(__file__).parents[1] / "scripts/slurm"
TASK = {
    "SLURM_JOB_ID": "42",
    "SLURM_JOB_NAME": "x",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "127.0.0.1",
    "SLURM_CPUS_PER_TASK": "3",
}
# srun becomes the task, whose death by a signal the shell then tells as srun does.
SRUN = """
echo "$SRUN_CPUS_PER_TASK $1" >>srun.log
shift
echo $$ >task.pid
exec "$@"
"""
LENGTH = ("data.test_ratio=0.7", "trainer.max_epochs=5", "callbacks.checkpoint.every_n_steps=2")


class Cluster:
    """A folder to submit from, with the commands of SLURM that a batch script calls."""

    def __init__(self, path):
        self.path = path
        self.command("bin/srun", SRUN)
        self.command("bin/scontrol", 'echo "$@" >>scontrol.log')
        self.command(".venv/bin/python", f'exec "{sys.executable}" "$@"')

    def command(self, name, text):
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/usr/bin/env bash\n{text}\n")
        file.chmod(0o755)

    def start(self, *words):
        """Start the batch script as SLURM does, the first time and after a requeue."""
        search = f"{self.path / 'bin'}:{os.environ['PATH']}"
        place = {"SLURM_SUBMIT_DIR": str(self.path), "PATH": search, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [SCRIPT, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **TASK, **place},
        )

    def signal_task(self, process, saved):
        """Send what SLURM sends before the time is over, once a checkpoint is there."""
        deadline = time.monotonic() + 150
        while not saved.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no checkpoint was saved"
            time.sleep(0.01)
        os.kill(int(self.read("task.pid")), signal.SIGUSR1)

    def read(self, name):
        file = self.path / name
        return file.read_text() if file.exists() else ""


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def finish(process):
    _, stderr = process.communicate(timeout=250)
    return process.returncode, stderr


def weights(folder):
    return read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_requeued_job_goes_on_in_its_folder_with_the_same_weights(cluster, tiny, train):
    whole, parts = cluster.path / "whole", cluster.path / "runs/parts"
    expected = train(whole, *LENGTH)
    words = ("runs/parts", *tiny, *LENGTH)

    stopped = cluster.start(*words)
    cluster.signal_task(stopped, parts / "checkpoints/last.ckpt")
    code, errors = finish(stopped)
    assert code == 75, errors
    assert "stopped by SIGUSR1" in errors.strip().splitlines()[-1]
    assert (parts / "train.log").read_text().count("SIGUSR1: stopping") == 1
    assert not (parts / "results.json").exists()

    code, errors = finish(cluster.start(*words))
    assert code == 0, errors
    assert "resuming from" in errors
    assert cluster.read("scontrol.log") == "requeue 42\n"
    assert [path.name for path in parts.parent.iterdir()] == ["parts"]
    assert not list(cluster.path.rglob("hpc_ckpt*"))
    one, other = weights(whole), weights(parts)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert json.loads((parts / "results.json").read_text())["metrics"] == expected["metrics"]


@pytest.mark.parametrize(
    ("ends", "code", "requeued"),
    [
        ("exit 75", 75, "requeue 42\n"),
        ("kill -USR1 $$", 138, "requeue 42\n"),  # before Python answers signals
        ("exit 0", 0, ""),
        ("exit 2", 2, ""),
        ("exit 3", 3, ""),
        ("kill -TERM $$", 143, ""),  # scancel
    ],
)
def test_only_what_can_go_on_is_requeued(cluster, ends, code, requeued):
    cluster.command(".venv/bin/python", f'echo "$@" >>words.log\n{ends}')
    assert finish(cluster.start("runs/a", "gpu=cpu"))[0] == code
    assert cluster.read("scontrol.log") == requeued
    assert cluster.read("words.log") == "-m gpuopt.train run=runs/a resume=false gpu=cpu\n"
    assert cluster.read("srun.log") == "3 --ntasks=1\n"  # all processors, one task


def test_a_requeue_that_is_refused_is_told_and_the_exit_code_stays(cluster):
    cluster.command(".venv/bin/python", "exit 75")
    cluster.command("bin/scontrol", "exit 1")
    code, errors = finish(cluster.start("runs/a"))
    assert (code, errors) == (75, "gpuopt: runs/a waits to be resumed\n")


def test_the_variables_of_a_task_do_not_reach_the_trainer(train, tmp_path, monkeypatch):
    """The second of four tasks, each a run of its own; Lightning would take it for a rank."""
    for name, value in {**TASK, "SLURM_NTASKS": "4", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as when imported in such a task
    before = signal.getsignal(signal.SIGUSR1)
    results = train(tmp_path, "trainer.max_steps=2", "logger=csv")
    assert results["training"]["steps"] == 2
    assert (tmp_path / "csv/metrics.csv").is_file()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_an_installed_srun_is_no_advice_to_use_it(cluster, train, monkeypatch):
    monkeypatch.setenv("PATH", str(cluster.path / "bin"), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    train(cluster.path / "run", "trainer.max_steps=2")  # warnings are errors
