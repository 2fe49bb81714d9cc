from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from gpuopt.callbacks import AdaptiveBatchSize, GlobalBatchSchedule, OomRecovery
from gpuopt.callbacks.compile_modes import modes_of, other_sizes_because

ALL = ("default", "reduce-overhead", "max-autotune")


def trainer(*callbacks, device="cuda", accumulate=1):
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
    )


def test_tuned_modes_are_of_inductor_on_a_gpu():
    module = L.LightningModule()
    assert modes_of(trainer(), module, "inductor") == ALL
    assert modes_of(trainer(device="cpu"), module, "inductor") == ("default",)
    assert modes_of(trainer(), module, "aot_eager") == ("default",)


@pytest.mark.parametrize(
    "made",
    [
        trainer(accumulate=2),
        trainer(GlobalBatchSchedule(8, {1: 32})),
        trainer(GradientAccumulationScheduler({0: 1, 4: 2})),
    ],
)
def test_cuda_graphs_are_not_tried_where_gradients_are_added_up(made):
    assert modes_of(made, L.LightningModule(), "inductor") == ("default",)


def test_steps_by_hand_may_add_up_gradients():
    module = L.LightningModule()
    module.automatic_optimization = False
    assert modes_of(trainer(), module, "inductor") == ("default",)


def test_a_size_that_follows_the_memory_is_another_one():
    assert other_sizes_because(trainer(), 8) is None
    assert "AdaptiveBatchSize" in other_sizes_because(trainer(AdaptiveBatchSize()), 8)
    recovery = OomRecovery()
    assert other_sizes_because(trainer(recovery), 8) is None
    recovery.steps.sizes["training"].limit = 4
    reason = "OomRecovery goes on with 4 of 8 samples at a time"
    assert other_sizes_because(trainer(recovery), 8) == reason
    assert other_sizes_because(trainer(recovery), 4) is None
