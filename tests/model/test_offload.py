import importlib.util
import sys
from types import ModuleType

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from gpuopt.callbacks import MovingAverage, OomRecovery
from gpuopt.errors import InputError
from gpuopt.memory import predictor
from gpuopt.model import AdamW, Classifier, Sgd
from gpuopt.model.offload import OFFLOADED_FROM, offloaded
from tests.callbacks.memory_faults import Limits, Net, difference, fit, loader
from tests.model import fake_torchao


@pytest.fixture
def torchao(monkeypatch):
    package = ModuleType("torchao")
    package.optim = fake_torchao
    monkeypatch.setitem(sys.modules, "torchao", package)
    monkeypatch.setitem(sys.modules, "torchao.optim", fake_torchao)


class Wide(Net):
    """With parameters that are offloaded, and others too small for it."""

    offloads = True

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.after.append(nn.Linear(8, 64))
        self.after.append(nn.Linear(64, 70))  # 4,480 elements
        self.head = nn.Linear(70, 3)

    def configure_optimizers(self):
        groups = [{"params": list(self.parameters()), "lr": 0.01, "weight_decay": 0.1}]
        optimizer = (
            offloaded(torch.optim.AdamW, groups, eps=1e-7)
            if self.offloads
            else torch.optim.AdamW(groups, eps=1e-7, fused=True)
        )
        self.kind = type(optimizer).__name__
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, **options):
        if gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)


class Resident(Wide):
    offloads = False


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("limits", [{}, {"backward": 3}], ids=["undisturbed", "out of memory"])
def test_training_is_that_of_an_optimizer_on_the_device(torchao, accumulate, limits):
    """With accumulation, clipping, averaging, a schedule, and batches that are split."""
    runs = []
    for kind in (Resident, Wide):
        callbacks = MovingAverage(), OomRecovery()
        options = {"limits": Limits(**limits), "accumulate_grad_batches": accumulate}
        runs.append(fit(*callbacks, kind=kind, gradient_clip_val=0.05, **options))
        assert bool(callbacks[1].events) == bool(limits)
    assert runs[1][0].kind == "Offloaded"
    assert difference(*runs) < 1e-12


def test_a_resumed_run_goes_on_with_the_state_of_the_host(torchao, tmp_path):
    found = []
    for kind in (Resident, Wide):
        _, trainer = fit(kind=kind, max_epochs=2)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        torch.manual_seed(7)  # other weights, until they are loaded
        net = kind(None).double()
        settings = dict.fromkeys(("logger", "enable_checkpointing"), False)
        resumed = L.Trainer(
            max_epochs=4, accelerator="cpu", precision="64-true", num_sanity_val_steps=0, **settings
        )
        resumed.fit(net, loader(), loader(20), ckpt_path=tmp_path / "half.ckpt")
        found.append((net, resumed))
    assert difference(*found) < 1e-12


@pytest.mark.parametrize(
    ("factory", "kind"),
    [(AdamW(offload=True), torch.optim.AdamW), (Sgd(offload=True), torch.optim.SGD)],
)
def test_factories_hand_their_settings_on(torchao, factory, kind):
    groups = [
        {"params": [nn.Parameter(torch.ones(64, 64)), nn.Parameter(torch.ones(3))], "lr": 0.3}
    ]
    optimizer = factory(groups, fused=True)
    inner = [*optimizer.optim_dict.values(), optimizer.d_opt]
    assert {type(one) for one in inner} == {kind}
    assert all(group["lr"] == 0.3 for group in optimizer.param_groups)
    assert len(optimizer.param_d2h_map) == 1
    if kind is torch.optim.SGD:
        assert optimizer.param_groups[0]["momentum"] == 0.9


def test_without_torchao_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(
        InputError, match=r"needs the package torchao: pip install 'gpuopt\[offload\]'"
    ):
        offloaded(torch.optim.AdamW, [])


def test_the_predictor_knows_the_same_limit():
    assert predictor._OFFLOADED_FROM == OFFLOADED_FROM


def test_fp16_is_refused_before_a_step(torchao):
    model = Classifier("test_vit", 3, optimizer=AdamW(offload=True), total_steps=2)
    scaler = torch.amp.GradScaler("cpu")
    trainer = L.Trainer(
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        logger=False,
        enable_checkpointing=False,
    )
    model.trainer = trainer
    with pytest.raises(InputError, match="gradient scaler"):
        model.configure_optimizers()


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_on_a_gpu_the_state_leaves_the_card_and_the_result_stays():
    runs, sizes = [], []
    for kind in (Resident, Wide):
        torch.cuda.reset_peak_memory_stats()
        runs.append(fit(kind=kind, accelerator="gpu", devices=1, accumulate_grad_batches=2))
        sizes.append(torch.cuda.max_memory_allocated())
    assert sizes[1] < sizes[0]
    assert difference(*runs) < 1e-9
