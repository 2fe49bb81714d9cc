import copy

import pytest
import torch

from gpuopt.callbacks import NonFiniteLoss
from gpuopt.errors import FaultError


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_it_stops_before_the_weights_are_touched(make_trainer, module, loader, value):
    step = module.training_step
    seen = {}

    def broken(batch, batch_idx):
        if module.global_step == 3:
            seen["weights"] = copy.deepcopy(module.state_dict())
            return step(batch, batch_idx) * value
        return step(batch, batch_idx)

    module.training_step = broken
    reports = []
    guard = NonFiniteLoss(lambda number, batch: reports.append((number, batch[1].tolist())))
    with pytest.raises(FaultError, match="not finite at step 3"):
        make_trainer(guard, enable_checkpointing=False).fit(module, loader, loader)
    assert reports == [(3, [0, 1, 2, 0])]  # samples 12 to 15
    names = [n for n, _ in module.named_parameters()]
    assert all(torch.equal(module.state_dict()[n], seen["weights"][n]) for n in names)


@pytest.mark.parametrize(
    ("report", "samples"), [(None, "its batch"), (lambda step, batch: None, "bad_batch.json")]
)
def test_only_a_report_that_was_written_is_named(make_trainer, module, loader, report, samples):
    module.training_step = lambda batch, batch_idx: module.net(batch[0]).sum() * float("nan")
    with pytest.raises(FaultError, match=f"look at the samples of {samples}, lower"):
        make_trainer(NonFiniteLoss(report), enable_checkpointing=False).fit(module, loader, loader)


def test_a_healthy_run_is_left_alone(make_trainer, module, loader):
    trainer = make_trainer(NonFiniteLoss(), enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 18


@pytest.mark.gpu
def test_on_a_gpu_it_stops_one_step_later_at_the_latest(make_trainer, module, loader):
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (
        step(batch, batch_idx) * (float("nan") if module.global_step == 3 else 1.0)
    )
    trainer = make_trainer(NonFiniteLoss(), enable_checkpointing=False, accelerator="gpu")
    with pytest.raises(FaultError, match="not finite"):
        trainer.fit(module, loader, loader)
    assert trainer.global_step <= 5
