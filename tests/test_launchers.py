"""Sweeps by other launchers: joblib, and submitit on this machine and on a SLURM that is a fake."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Stands for the process of a job: it ends well, or takes the task that started it along. The sweep
# waits two seconds instead of fifteen for the answer of a task that is gone.
PRETEND = """
import json, os, signal, sys
from pathlib import Path
if "KILLED" in os.environ and "hydra/launcher=submitit_local" in sys.orig_argv:
    from submitit.core.core import Job
    Job._results_timeout_s = 2
if sys.orig_argv[-2:-1] == ["gpuopt.train"] and sys.orig_argv[-1].startswith("resume="):
    folder = Path(sys.orig_argv[-1][8:-1])
    if folder.name == os.environ.get("KILLED"):
        os.kill(os.getppid(), signal.SIGKILL)
    else:
        (folder / "results.json").write_text(json.dumps({"state": "finished"}))
    os._exit(0)
"""
# SLURM runs the tasks of an array one after another, and those again that were requeued.
SBATCH = """
cp "$1" job.sh
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' job.sh)
echo "array of 0 to $last" >>calls.log
export SLURM_JOB_NAME=x SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
export SLURM_JOB_NODELIST=localhost SLURM_ARRAY_JOB_ID=100
for task in $(seq 0 "$last"); do
  until [ -e "ended_$task" ]; do
    touch "ended_$task"
    SLURM_JOB_ID=$((100 + task)) SLURM_ARRAY_TASK_ID=$task bash job.sh
  done
done </dev/null >/dev/null 2>&1 &
echo "Submitted batch job 100"
"""
SRUN = """
while [[ $1 == --* ]]; do
  case $1 in --output) out=$2; shift ;; --error) err=$2; shift ;; esac
  shift
done
name() { sed "s/%A/100/; s/%a/$SLURM_ARRAY_TASK_ID/; s/%t/0/" <<<"$1"; }
echo $$ >"task_$SLURM_ARRAY_TASK_ID.pid"
exec "$@" >>"$(name "$out")" 2>>"$(name "$err")"
"""
SCONTROL = """
echo "$@" >>calls.log
rm "ended_${2#100_}"
"""
SACCT = """
echo "JobID|State|NodeList"
for task in 0 1; do echo "100_$task|RUNNING|localhost"; done
"""


@pytest.fixture
def start(tmp_path, tiny):
    """Start a sweep in a folder of its own, its programs first on PATH and PYTHONPATH."""

    def start(*words, **environment):
        paths = {
            name: f"{tmp_path}{suffix}{os.pathsep}{os.environ.get(name, '')}"
            for name, suffix in (("PATH", "/bin"), ("PYTHONPATH", ""))
        }
        return subprocess.Popen(
            [sys.executable, "-m", "gpuopt.train", "-m", *tiny, *words, "hydra.sweep.dir=S"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **paths, **environment},
        )

    return start


@pytest.fixture
def pretend(tmp_path, start):
    """Run a sweep to its end whose jobs only pretend."""
    (tmp_path / "sitecustomize.py").write_text(PRETEND)

    def run(*words, **environment):
        process = start(*words, **environment)
        stdout, stderr = process.communicate(timeout=150)
        return process.returncode, stdout, stderr

    return run


@pytest.fixture
def slurm(tmp_path):
    """Put SLURM's commands in place; returns the folder in which they note their calls."""
    for name, text in {
        "sbatch": SBATCH,
        "srun": SRUN,
        "scontrol": SCONTROL,
        "sacct": SACCT,
    }.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/usr/bin/env bash\n{text}")
        file.chmod(0o755)
    return tmp_path


def table(folder):
    with (folder / "S/sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def job_folders(folder):
    return sorted(path.name for path in (folder / "S").iterdir() if path.name.isdigit())


def needs(launcher):
    package = "hydra_plugins.hydra_" + launcher.partition("_")[0] + "_launcher"
    pytest.importorskip(package, reason="the extra sweep is not installed")


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_each_job_runs_once_in_its_folder(pretend, tmp_path, launcher):
    needs(launcher)
    code, stdout, stderr = pretend("seed=1,2", f"hydra/launcher={launcher}")
    assert (code, stderr) == (0, "")
    assert "2 jobs done" in stdout
    assert [(row["seed"], row["state"]) for row in table(tmp_path)] == [
        ("1", "done"),
        ("2", "done"),
    ]
    assert job_folders(tmp_path) == ["0", "1"]
    assert not (tmp_path / "outputs").exists()


def test_a_job_that_is_lost_is_a_row_and_the_others_are_waited_for(pretend, tmp_path):
    needs("submitit_local")
    code, _, stderr = pretend("seed=1,2", "hydra/launcher=submitit_local", KILLED="0")
    assert code == 3
    assert "1 of 2 jobs done, 1 failed" in stderr.strip().splitlines()[-1]
    rows = table(tmp_path)
    assert [row["state"] for row in rows] == ["failed", "done"]
    assert rows[0]["reason"]


def test_a_preempted_task_of_slurm_saves_is_requeued_and_goes_on(start, slurm):
    """As a task of a real cluster, which knows nothing of the process that submitted it."""
    needs("submitit_slurm")
    sweep = start(
        "seed=1,2",
        "hydra/launcher=submitit_slurm",
        "trainer.max_epochs=4",
        "callbacks.checkpoint.every_n_steps=2",
    )
    deadline = time.monotonic() + 150
    while not (slurm / "S/0/checkpoints/last.ckpt").exists():
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline, "no checkpoint was saved"
        time.sleep(0.01)
    os.kill(int((slurm / "task_0.pid").read_text()), signal.SIGUSR2)
    _, stderr = sweep.communicate(timeout=250)
    assert sweep.returncode == 0, stderr
    assert (slurm / "calls.log").read_text() == "array of 0 to 1\nrequeue 100_0\n"
    assert [row["state"] for row in table(slurm)] == ["done", "done"]
    assert job_folders(slurm) == ["0", "1"]
    log = (slurm / "S/0/train.log").read_text()
    assert log.count("SIGUSR2: stopping") == log.count("resuming from") == 1
    assert "resuming from" not in (slurm / "S/1/train.log").read_text()
    assert all(json.loads(p.read_text())["training"] for p in slurm.glob("S/*/results.json"))
