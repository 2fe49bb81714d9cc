"""Recomputed blocks with everything else that touches a step."""

import pytest
import torch
from torch import nn

from gpuopt.callbacks import MovingAverage, OomRecovery
from gpuopt.recomputation.apply import apply_checkpointing
from tests.callbacks.memory_faults import Limits, Net, difference, fit


class Recomputed(Net):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        apply_checkpointing(self, "full", stages=[[self.before], [self.after]])


class FailsAgain(Recomputed):
    """Its backward pass fails while a block is computed again, not in an operation of its own."""

    def __init__(self, limits, **options):
        super().__init__(None, **options)
        self.most = limits.backward
        self.failures = 0
        self.before.append(nn.GELU())  # whose input is kept, so that the pass comes to it
        self.before[1].register_forward_pre_hook(self.check)

    def check(self, module, inputs):
        if torch._C._current_graph_task_id() >= 0 and len(inputs[0]) > self.most:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")


class GoesWell(FailsAgain):
    def check(self, module, inputs):
        pass


OPTIONS = {"norm": "batch", "dropout": 0.3, "accumulate_grad_batches": 2}


@pytest.mark.parametrize(
    "options", [{}, OPTIONS, {**OPTIONS, "accumulate_grad_batches": 3}], ids=str
)
def test_a_fit_is_bit_for_bit_the_plain_one(options):
    assert difference(fit(**options), fit(kind=Recomputed, **options)) == 0.0


@pytest.mark.parametrize("limits", [{"forward": 5}, {"backward": 5}, {"backward": 3}], ids=str)
def test_with_recovery_averaging_and_accumulation_as_well(limits):
    runs = []
    for kind in (Net, Recomputed):
        average, recovery = MovingAverage(), OomRecovery()
        runs.append(fit(average, recovery, kind=kind, limits=Limits(**limits), **OPTIONS))
        assert recovery.events
    assert difference(*runs) == 0.0


def test_memory_may_run_out_while_a_block_is_computed_again():
    recovery = OomRecovery()
    failed = fit(recovery, kind=FailsAgain, limits=Limits(backward=4))
    assert failed[0].failures
    assert {event["phase"] for event in recovery.events} == {"backward pass"}
    assert difference(fit(kind=GoesWell, limits=Limits(backward=4)), failed) < 1e-12
