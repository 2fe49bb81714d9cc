"""Folds in processes of their own, and the real command killed and stopped between folds."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.fold_process import train_in_process
from gpuopt.run import RunFolder

OPTIONS = (
    "folds=2",
    "data.test_ratio=0.7",
    "micro_batch_size=16",
    "global_batch_size=32",
    "trainer.max_epochs=3",
    "callbacks.checkpoint.every_n_steps=2",
)


@pytest.fixture
def ending_with(tmp_path, monkeypatch):
    """Let a fold's process run other code; returns a call that trains a fold with it."""
    real, words = subprocess.Popen, []

    def start(code):
        def popen(arguments, **options):
            words[:] = arguments
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(subprocess, "Popen", popen)
        run = RunFolder(tmp_path / "it's")
        train_in_process(run, RunFolder(run.path / "fold_1"), debug=False)
        return words

    return start


def test_the_fold_is_named_to_its_process_whatever_its_folder_is_called(ending_with, tmp_path):
    assert ending_with("pass")[-1] == f"resume='{tmp_path}/it\\'s/fold_1'"


@pytest.mark.parametrize(
    ("code", "kind", "how"),
    [
        ("exit(2)", InputError, "ended with exit code 2"),
        ("exit(3)", FaultError, "ended with exit code 3"),
        ("exit(1)", FaultError, "ended with exit code 1"),
        ("exit(75)", PreemptedError, "ended with exit code 75"),
        ("import os; os.kill(os.getpid(), 9)", FaultError, "was killed by signal 9"),
    ],
)
def test_how_a_fold_ends_is_said_with_the_way_on(ending_with, code, kind, how):
    with pytest.raises(kind, match=rf"^fold_1 {how}, .* resume=.*it's$"):
        ending_with(code)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_stopped_and_resumed_folds_are_the_same_to_the_bit(tiny, start_command, tmp_path):
    """Killed in fold 0 with its process, stopped in fold 1 in a process of its own."""

    def start(*words, **options):
        return start_command(tmp_path, "gpuopt.train", *words, **options)

    end = start(*tiny, *OPTIONS, "run=whole").end()
    assert end.code == 0, end.stderr

    killed = start(*tiny, *OPTIONS, "run=parts")
    killed.wait_until((tmp_path / "parts/fold_0/checkpoints/last.ckpt").exists)
    killed.send(signal.SIGKILL)
    assert killed.end().code == -9

    # One of the two folds' processes is forked, the other one started as ever.
    stopped = start("resume=parts", "fold_processes=true", children=1)
    stopped.wait_until((tmp_path / "parts/fold_1/checkpoints/last.ckpt").exists)
    stopped.send(signal.SIGTERM)
    end = stopped.end()
    assert end.code == 75, end.stderr
    assert end.last_line.endswith(f"go on with resume={tmp_path / 'parts'}")

    end = start("resume=parts", "fold_processes=false").end()
    assert end.code == 0, end.stderr
    assert "fold 0 is finished and not trained again" in end.stderr.splitlines()
    whole, parts = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")
    )
    assert parts["metrics"] == whole["metrics"]
    for fold in range(2):
        name = f"fold_{fold}/model.safetensors"
        left, right = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
        assert all(torch.equal(value, right[key]) for key, value in left.items())
