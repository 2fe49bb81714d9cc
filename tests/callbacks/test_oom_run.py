"""A `gpuopt train` that runs out of memory: its results, its exit and its resume."""

import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from gpuopt.callbacks import split_steps
from gpuopt.errors import FaultError
from gpuopt.model import Classifier
from gpuopt.run import RunFolder
from gpuopt.worker import work
from tests.callbacks.memory_faults import FakeMeter

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


@pytest.fixture
def device(monkeypatch):
    """A device that holds 64 samples, of which another process takes half after some batches."""
    meter = FakeMeter(total=10 + 64 * 5, base=10)
    meter.taken_after = 2
    cross_entropy = Classifier._cross_entropy

    def metered(self, logits, batch):
        if torch.is_grad_enabled():
            ready = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
            meter.other = 160 if ready > meter.taken_after else 0
            meter.take(len(logits))
        return cross_entropy(self, logits, batch)

    monkeypatch.setattr(Classifier, "_cross_entropy", metered)
    monkeypatch.setattr(split_steps, "meter_of", lambda device: meter)
    return meter


ADAPTIVE = ("callbacks.adaptive_batch_size.enabled=true", "trainer.max_steps=6")


@pytest.mark.parametrize("has_recovery", [False, True])
def test_results_show_the_adaptation(train, device, tmp_path, has_recovery):
    """Alone and together: a batch that no longer fits is split, and less is taken from then on."""
    words = (f"callbacks.oom_recovery.enabled={str(has_recovery).lower()}", "logger=tensorboard")
    results = train(tmp_path, *ADAPTIVE, *words)["training"]
    found = results["adaptive_batch_size"]
    failures = (results["oom_recovery"] or found)["events"]
    kinds = [(e["event"], e["samples"], e["micro_batch_size"]) for e in failures]
    assert ("out_of_memory", 64, 32) in kinds
    # 32 samples take all of what is left; at most 85 % are aimed at.
    assert found["final_micro_batch_size"] == 22
    adapted = [e for e in found["events"] if e["event"] == "adapt"]
    assert [(e["samples"], e["micro_batch_size"]) for e in adapted] == [(32, 22)]
    assert adapted[0]["peak_bytes"] == adapted[0]["available_bytes"] == 170
    assert (results["oom_recovery"] is not None) is has_recovery
    assert results["steps"] == 6
    assert scalars(tmp_path, "memory/micro_batch_size") == [32.0, 22.0]
    assert scalars(tmp_path, "memory/out_of_memory") == [1.0, 1.0]
    assert scalars(tmp_path, "memory/available_bytes") == [170.0]


def test_every_setting_of_the_adaptation_has_its_effect(train, device, tmp_path):
    """With their defaults: 8 -> 11 for `growth_ratio`, 32 for `maximum`, 22 for `target_ratio`."""
    device.taken_after = 12
    settings = {"enabled": "true", "initial": 8, "maximum": 22}
    settings |= {"target_ratio": 0.6, "growth_ratio": 2.0}
    words = [f"callbacks.adaptive_batch_size.{key}={value}" for key, value in settings.items()]
    train(tmp_path, *words, "trainer.max_steps=8")
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))["training"]
    found = results["adaptive_batch_size"]
    changes = [(e["event"], e["samples"], e["micro_batch_size"]) for e in found["events"]]
    assert changes == [("adapt", 8, 16), ("adapt", 16, 22), ("adapt", 22, 16)]
    assert found["final_micro_batch_size"] == 16
    assert found["bytes_per_sample"] == 5
    assert results["oom_recovery"]["events"] == []  # nothing ran out of memory on the way
    assert results["steps"] == 8


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def test_a_first_size_from_the_command_line(train, tmp_path):
    """Without a device to measure it stays, and the result is that of the whole batches."""
    words = ("trainer.max_steps=3", "model.drop_rate=0.0")
    train(tmp_path / "whole", *words)
    adaptive = "callbacks.adaptive_batch_size"
    options = (f"{adaptive}.enabled=true", f"{adaptive}.initial=20")
    results = train(tmp_path / "parts", *words, *options)["training"]["adaptive_batch_size"]
    assert results == {"events": [], "final_micro_batch_size": 20, "bytes_per_sample": None}
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-4  # rounding of fp32
