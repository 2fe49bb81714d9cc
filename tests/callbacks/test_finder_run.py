"""`gpuopt train` that measures its micro-batch first: the same run as with that size given."""

import json

import pytest
import torch
from safetensors.torch import load_file

from gpuopt.model import Classifier
from tests.callbacks.finder_modules import FakeMeter

FOUND = 39  # samples that fit the fake device
ASKED = (
    "trainer.max_steps=3",
    "global_batch_size=64",
    "callbacks.moving_average.enabled=true",
    "data.mixup_alpha=0.2",
)
SEARCH = ("micro_batch_size=auto", "callbacks.batch_size_finder.enabled=true")


@pytest.fixture
def meter(monkeypatch):
    """Let the classifier's training steps take memory of a fake device."""
    fake, cross_entropy = FakeMeter(), Classifier._cross_entropy

    def taking(self, logits, batch):
        if torch.is_grad_enabled():
            fake.take(len(logits))
        return cross_entropy(self, logits, batch)

    monkeypatch.setattr(Classifier, "_cross_entropy", taking)
    monkeypatch.setattr("gpuopt.callbacks.batch_size_finder.probe_meter_of", lambda device: fake)
    return fake


def results_of(folder):
    return json.loads((folder / "results.json").read_text("utf-8"))


def test_the_run_is_that_of_the_size_and_results_hold_the_evidence(train, meter, tmp_path):
    train(tmp_path / "found", *ASKED, *SEARCH, "callbacks.batch_size_finder.steps=2")
    assert meter.failures == 0
    results = results_of(tmp_path / "found")
    found = results["training"]["batch_size_finder"]
    assert found["largest"] == FOUND
    assert len(found["probes"]) <= 4
    choice = next(c for c in results["choices"] if c["key"] == "micro_batch_size")
    assert (choice["value"], choice["evidence"]) == (32, "measured")  # 64 in two equal parts
    assert f"probes: {FOUND} fit" in choice["reason"]
    train(tmp_path / "given", *ASKED, "micro_batch_size=32")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("found", "given")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert results_of(tmp_path / "given")["training"]["batch_size_finder"] is None


def test_bounds_are_kept(train, meter, tmp_path):
    limits = ("callbacks.batch_size_finder.minimum=4", "callbacks.batch_size_finder.maximum=16")
    train(tmp_path, "trainer.max_steps=1", *SEARCH, *limits)
    probes = results_of(tmp_path)["training"]["batch_size_finder"]["probes"]
    assert all(4 <= probe["samples"] <= 16 for probe in probes)
    assert probes[-1]["samples"] == 16
