import lightning.pytorch as L
import pytest
import torch

from gpuopt.callbacks import MovingAverage


def test_the_average_warms_up_and_ignores_counters():
    callback = MovingAverage(decay=0.999)
    callback.load_state_dict({"latest_update_step": 1})
    averaged, current = [torch.zeros(2)], [torch.ones(2)]
    callback._average(averaged, current, torch.tensor(1))
    torch.testing.assert_close(averaged[0], torch.full((2,), 1 - 2 / 11))
    counters = [torch.tensor(3)]
    callback._average(counters, [torch.tensor(7)], torch.tensor(1))
    assert int(counters[0]) == 7


def test_the_decay_is_its_upper_limit():
    callback = MovingAverage(decay=0.9)
    callback.load_state_dict({"latest_update_step": 10**6})
    averaged = [torch.zeros(1)]
    callback._average(averaged, [torch.ones(1)], torch.tensor(10**6))
    assert float(averaged[0]) == pytest.approx(0.1)


def test_a_mask_of_infinities_stays_as_it_is(make_trainer, module, loader):
    mask = torch.full((4, 4), -torch.inf).triu(1)
    module.register_buffer("mask", mask.clone())
    seen = []

    class Look(L.Callback):
        def on_validation_batch_start(self, trainer, pl_module, *_):
            seen.append(pl_module.mask.clone())
            assert all(p.isfinite().all() for p in pl_module.parameters())

    make_trainer(MovingAverage(), Look(), enable_checkpointing=False).fit(module, loader, loader)
    assert all(torch.equal(other, mask) for other in [*seen, module.mask])


def test_validation_sees_the_average_and_training_goes_on_with_its_own(
    make_trainer, module, loader
):
    own, validated = [], []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            own.append(pl_module.net[0].weight.detach().clone())

        def on_validation_batch_start(self, trainer, pl_module, *_):
            validated.append(pl_module.net[0].weight.detach().clone())

        def on_train_epoch_start(self, trainer, pl_module):
            if own:
                assert torch.equal(own[-1], pl_module.net[0].weight)

    trainer = make_trainer(MovingAverage(), Look(), enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    assert not torch.equal(own[-1], validated[-1])
    assert torch.equal(module.net[0].weight, validated[-1])  # the result is the average
