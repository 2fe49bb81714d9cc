"""Recovery and adaptation with a real allocator, whose memory is capped while a run goes on."""

import json
import pickle

import lightning.pytorch as L
import pytest
import torch

from gpuopt.callbacks import AdaptiveBatchSize, OomRecovery
from gpuopt.errors import FaultError
from gpuopt.memory.meter import CudaMeter
from tests.callbacks.memory_faults import Net, difference, fit

pytestmark = pytest.mark.gpu
WIDTH = 200_000  # activations of some MB a sample, far above what libraries take
ON_GPU = {"accelerator": "gpu", "devices": 1, "validates": False, "max_epochs": 4}


class Wide(Net):
    """Takes about 10 MB a sample, in pieces that the allocator asks the driver for."""

    def forward(self, x):
        scale = torch.linspace(0.5, 1.5, WIDTH, device=x.device, dtype=x.dtype)
        wide = torch.tanh(self.before(x).mean(1, keepdim=True) * scale)
        wide = torch.tanh(torch.tanh(wide) * scale)
        return self.head(self.after(self.before(x))) + wide.mean(1, keepdim=True)


class Cap(L.Callback):
    """Caps the process at a share of a step's peak, before some batches."""

    def __init__(self, at):
        self.at, self.batch = at, -1

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch += 1
        if (share := self.at.get(self.batch)) is not None:
            peak = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            most = torch.cuda.memory_reserved() + share * peak
            torch.cuda.set_per_process_memory_fraction(min(1.0, most / total))


@pytest.fixture(autouse=True)
def _whole_device():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_cap_that_falls_in_mid_epoch_changes_only_the_speed():
    recovery = OomRecovery(grow_after_batches=3)
    options = {**ON_GPU, "max_epochs": 8}
    run = fit(Cap({6: 0.7, 14: 100.0}), recovery, kind=Wide, **options)
    kinds = [event["event"] for event in recovery.events]
    assert kinds[0] == "out_of_memory"
    assert kinds[-1] == "grow"
    assert recovery.summary()["final_micro_batch_size"] == 10
    assert difference(fit(kind=Wide, **options), run) < 1e-12


def test_the_size_follows_the_cap_without_a_failure():
    adaptive = AdaptiveBatchSize(initial=2)
    options = {**ON_GPU, "max_epochs": 8}
    run = fit(Cap({16: 1.1, 22: 100.0}), adaptive, kind=Wide, **options)
    sizes = [(e["event"], e["micro_batch_size"]) for e in adaptive.events]
    assert {kind for kind, _ in sizes} == {"adapt"}
    found = [size for _, size in sizes]
    assert found[:4] == [3, 4, 5, 10]
    assert min(found[4:]) < 10
    assert found[-1] == 10
    assert adaptive.summary()["bytes_per_sample"] > WIDTH * 8
    assert difference(fit(kind=Wide, **options), run) < 1e-12


def test_giving_up_leaves_table_snapshot_and_checkpoint(tmp_path):
    with pytest.raises(FaultError, match=r"with 1 sample at step 6; saved .*; who holds it"):
        fit(Cap({6: 0.02}), OomRecovery(), kind=Wide, default_root_dir=tmp_path, **ON_GPU)
    found = json.loads((tmp_path / "out_of_memory.json").read_text("utf-8"))
    memory = found["memory"]
    net = Wide().double()
    assert memory["parameters_bytes"] >= sum(p.nbytes for p in net.parameters())
    parts = ("parameters", "gradients", "optimizer", "buffers", "other_tensors", "cached")
    held = sum(memory[f"{name}_bytes"] for name in parts)
    assert held + memory["free_bytes"] + memory["elsewhere_bytes"] == memory["total_bytes"]
    snapshot = pickle.loads((tmp_path / found["snapshot"]).read_bytes())
    assert snapshot["segments"]
    assert torch.load(tmp_path / "out_of_memory.ckpt", weights_only=True)["global_step"] == 6


def test_thrash_is_seen_in_the_allocators_own_count():
    device = torch.device("cuda", 0)
    meter, before = CudaMeter(device), CudaMeter(device).retries()
    torch.empty(2**28, device=device)  # stays in the cache
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**20) / total)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2**29, device=device)
    assert meter.retries() > before
