"""What is left behind when not a single sample fits."""

import json
import pickle

import lightning.pytorch as L
import pytest
import torch

from gpuopt.callbacks import OomRecovery
from gpuopt.callbacks import split_steps as module_of_steps
from gpuopt.errors import FaultError
from gpuopt.steps.memory_report import unused_path
from tests.callbacks.memory_faults import FakeMeter, Limits, Net, fit, loader, metered


def report(folder, name="out_of_memory.json"):
    return json.loads((folder / name).read_text("utf-8"))


def test_the_table_says_who_holds_the_memory(tmp_path, caplog):
    meter = FakeMeter(total=10**6, base=50_000)

    def fill(meter):
        meter.other = 10**6

    with pytest.raises(FaultError, match=r"saved .*; who holds it: .*out_of_memory\.json: free"):
        fit(OomRecovery(meter=meter), kind=metered(meter, {2: fill}), default_root_dir=tmp_path)
    found = report(tmp_path)
    net = Net().double()
    weights = sum(p.numel() for p in net.parameters()) * 8
    memory = found["memory"]
    assert memory["parameters_bytes"] == weights
    # Both moments in fp64, and the number of steps of each parameter in fp32.
    assert memory["optimizer_bytes"] == 2 * weights + 4 * len(list(net.parameters()))
    assert memory["buffers_bytes"] == sum(b.nbytes for b in net.buffers())
    assert memory["workspace_bytes"] == 2
    known = ("parameters", "gradients", "optimizer", "buffers", "other_tensors")
    assert sum(memory[f"{name}_bytes"] for name in known) == 50_000
    assert memory["total_bytes"] == 10**6
    assert (found["phase"], found["step"]) == ("forward pass", 2)
    assert found["snapshot"] == "memory_snapshot.pickle"
    content = (tmp_path / found["snapshot"]).read_bytes()
    assert content == pickle.dumps(meter.snapshot())
    assert "memory when training gave up" in caplog.text
    assert "other tensors" in caplog.text


def test_a_second_report_leaves_the_first_alone(tmp_path):
    for at in (0, 1):
        with pytest.raises(FaultError):
            fit(OomRecovery(), limits=Limits(forward=0, at=at), default_root_dir=tmp_path)
    assert [report(tmp_path)["step"], report(tmp_path, "out_of_memory_2.json")["step"]] == [0, 1]
    assert (tmp_path / "out_of_memory_2.ckpt").exists()
    assert unused_path(tmp_path / "out_of_memory.json").name == "out_of_memory_3.json"


def test_on_a_cpu_it_says_what_is_not_measured(tmp_path, caplog):
    with pytest.raises(FaultError):
        fit(OomRecovery(), limits=Limits(backward=0), default_root_dir=tmp_path)
    assert "only a CUDA device's can be taken" in caplog.text
    assert report(tmp_path)["memory"]["free_bytes"] is None
    assert report(tmp_path)["snapshot"] is None


class Predicting(Net):
    def predict_step(self, batch, batch_idx):
        self.limits.check("validation", len(batch[0]))


@pytest.mark.parametrize("step", ["validate", "predict"])
def test_evaluation_that_gives_up_reports_as_well(tmp_path, step):
    trainer = L.Trainer(
        callbacks=[OomRecovery()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    run = getattr(trainer, step)
    with pytest.raises(FaultError, match=r"with 1 sample .*last checkpoint stands; who holds it"):
        run(Predicting(Limits(validation=0)).double(), loader())
    assert report(tmp_path)["phase"] in ("validation", "prediction")
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_folder_that_cannot_be_written_does_not_hide_the_failure(tmp_path):
    place = tmp_path / "file"
    place.write_text("here is a file")
    with pytest.raises(FaultError, match=r"ran out of memory .*not saved .*could not be reported"):
        fit(OomRecovery(), limits=Limits(forward=0), default_root_dir=place)


def test_memory_that_runs_out_elsewhere_is_reported_and_passes(tmp_path):
    class Hungry(Net):
        def on_train_epoch_end(self):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        fit(OomRecovery(), kind=Hungry, default_root_dir=tmp_path)
    assert report(tmp_path)["phase"] == "rest of training"


def test_an_optimizer_state_that_does_not_fit_ends_before_the_first_step(tmp_path, monkeypatch):
    def fail(optimizer):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module_of_steps, "make_state", fail)
    with pytest.raises(FaultError, match="no memory for the optimizer's state"):
        fit(OomRecovery(), default_root_dir=tmp_path)
    assert report(tmp_path)["phase"] == "optimizer's first state"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_update_without_memory_leaves_the_weights_and_saves(tmp_path, monkeypatch, accumulate):
    """It is looked for before the update of the first step, and of one after a failure."""
    asked = []

    def fail_at_last(optimizer):
        asked.append(optimizer)
        if len(asked) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module_of_steps, "try_update_memory", fail_at_last)
    seen = {}

    class Watched(Net):
        def on_train_batch_start(self, batch, batch_idx):
            super().on_train_batch_start(batch, batch_idx)
            seen["weights"] = {k: v.clone() for k, v in self.named_parameters()}

    at = 4 if accumulate == 2 else 3
    limits = Limits(backward=5, at=at - accumulate + 1)
    with pytest.raises(FaultError, match=r"optimizer's step \d; saved .*; who holds it") as info:
        fit(
            OomRecovery(),
            limits=limits,
            kind=Watched,
            accumulate_grad_batches=accumulate,
            default_root_dir=tmp_path,
        )
    assert info.value.exit_code == 3
    assert limits.failures == 1
    saved = torch.load(tmp_path / "out_of_memory.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[key], value) for key, value in seen["weights"].items())
    assert len(asked) == 2
