"""A `gpuopt train` that runs out of memory: its results, its exit and its resume."""

import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from gpuopt.errors import FaultError
from gpuopt.model import Classifier
from gpuopt.run import RunFolder
from gpuopt.worker import work

# Two micro-batches per window, and a ragged last one.
QUICK = ("trainer.max_steps=4", "model.drop_rate=0.2")


@pytest.fixture
def shrink(monkeypatch):
    """Let training batches of more than some samples not fit, from one micro-batch on."""
    cross_entropy = Classifier._cross_entropy

    def set_limit(most, since=0):
        def limited(self, logits, batch):
            is_late = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready > since
            if torch.is_grad_enabled() and is_late and len(logits) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return cross_entropy(self, logits, batch)

        monkeypatch.setattr(Classifier, "_cross_entropy", limited)

    yield set_limit
    monkeypatch.setattr(Classifier, "_cross_entropy", cross_entropy)


def largest_difference(one, other):
    weights = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0])


def test_results_show_the_recovery(train, shrink, tmp_path):
    train(tmp_path / "plain", QUICK[0])
    shrink(20)
    options = (QUICK[0], "logger=csv", "callbacks.oom_recovery.grow_after_batches=3")
    train(tmp_path / "split", *options)
    results = json.loads((tmp_path / "split" / "results.json").read_text("utf-8"))
    found = results["training"]["oom_recovery"]
    first, second, *later = found["events"]
    assert (first["samples"], first["micro_batch_size"], first["phase"]) == (64, 32, "forward pass")
    assert (second["samples"], second["micro_batch_size"]) == (32, 16)
    assert [event["event"] for event in later][:2] == ["grow", "out_of_memory"]
    assert found["final_micro_batch_size"] in (16, 32)
    assert results["training"]["steps"] == 4
    assert largest_difference(tmp_path / "plain", tmp_path / "split") < 1e-4  # rounding of fp32
    logs = [path.read_text("utf-8") for path in (tmp_path / "split").rglob("metrics.csv")]
    assert "memory/micro_batch_size" in "".join(logs)


def test_without_it_one_line_names_the_smaller_size(train, shrink, tmp_path):
    shrink(20)
    with pytest.raises(
        FaultError, match=r"ran out of memory at micro_batch_size=64: .* micro_batch_size=32"
    ):
        train(tmp_path, *QUICK, "callbacks.oom_recovery.enabled=false")


@pytest.mark.parametrize("since", [0, 3])  # the start of a run, the middle of a window
def test_a_run_that_gave_up_is_resumed_to_the_bit(train, shrink, tmp_path, since):
    train(tmp_path / "plain", *QUICK)
    shrink(0, since)
    with pytest.raises(FaultError, match=r"with 1 sample at step \d; saved .*last\.ckpt"):
        train(tmp_path / "resumed", *QUICK)
    shrink(10_000)
    run = RunFolder(tmp_path / "resumed")
    with run.lock:
        results = work(run, Console(quiet=True))
    assert results["training"]["steps"] == 4
    assert results["training"]["oom_recovery"]["events"][-1]["event"] == "give_up"
    assert largest_difference(tmp_path / "plain", tmp_path / "resumed") == 0.0
