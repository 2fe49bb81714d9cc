"""The gradient of any number of batches of any size is that of one big batch."""

import logging
import math

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision

from gpuopt.callbacks import GradientAccumulation, OomRecovery
from gpuopt.callbacks.gradient_accumulation import _batches_per_step
from gpuopt.errors import InputError
from tests.callbacks.batches_of_any_size import (
    CLASS_WEIGHTS,
    SIZES,
    WINDOW,
    Net,
    bare,
    fit,
    gradient_difference,
    loader,
    make,
    weight_difference,
    windows,
)


def class_weight_sum(batch):
    return CLASS_WEIGHTS[batch[1]].sum()


def accumulation(weighted=False, window=WINDOW, **options):
    return GradientAccumulation(
        window, loss_weight=class_weight_sum if weighted else None, **options
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_gradient_is_that_of_one_big_batch(weighted, dtype, limit):
    net, plain = make(weighted, dtype), make(weighted, dtype)
    # SGD keeps both on the same path up to rounding, so that each step's gradients compare.
    net.kind = plain.kind = torch.optim.SGD
    trainer = fit(net, accumulation(weighted), gradient_clip_val=0.5)
    bare(plain, [windows()] * 2, clip=0.5)
    assert gradient_difference(net, plain) < limit
    assert trainer.global_step == 2 * len(windows()) == 8


@pytest.mark.parametrize("weighted", [False, True])
def test_the_trained_weights_are_those_of_big_batches(weighted):
    net, plain = make(weighted), make(weighted)
    fit(net, accumulation(weighted))
    bare(plain, [windows()] * 2)
    assert weight_difference(net, plain) < 1e-11  # AdamW enlarges rounding of small gradients


def test_what_lightning_does_is_another_gradient():
    """Else the tests above could not fail."""
    net, plain = make(), make()
    sizes = (8, 8, 8, 8, 8, 8, 10, 4)
    fit(net, accumulate_grad_batches=3, sizes=sizes)
    bare(plain, [windows(sizes)] * 2, sizes=sizes)
    assert gradient_difference(net, plain) > 0.1


def test_equal_batches_are_stock_lightning_to_the_bit():
    sizes = (8,) * 9
    net, stock = make(), make()
    fit(net, accumulation(), sizes=sizes)
    fit(stock, accumulate_grad_batches=3, sizes=sizes)
    assert weight_difference(net, stock) == 0.0
    assert net.losses == stock.losses
    assert net.rates == stock.rates


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_weights_does_not_matter(scale):
    net, plain = make(True), make(True)
    callback = GradientAccumulation(WINDOW, loss_weight=lambda b: scale * class_weight_sum(b))
    fit(net, callback)
    bare(plain, [windows()] * 2)
    assert gradient_difference(net, plain) < 1e-10
    # What fp16 computes with: shares of the loss near those of equal batches.
    assert 0.2 < max(net.losses) < 5


@pytest.mark.parametrize(
    ("is_first", "failing", "at", "weighted"),
    [
        (True, "forward", 1, False),  # in the middle of a window
        (False, "forward", 10, True),  # in the incomplete one
        (True, "backward", 10, True),
        (False, "backward", 1, False),
    ],
)
def test_together_with_recovery_from_running_out_of_memory(is_first, failing, at, weighted):
    """Batches that are split within windows of several sizes."""

    class Failing(Net):
        batch = -1

        def on_train_batch_start(self, batch, batch_idx):
            self.batch += 1

        def training_step(self, batch, batch_idx):
            if len(batch[0]) > 3 and self.batch >= at and failing == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            loss = self.loss(batch)
            if len(batch[0]) > 3 and self.batch >= at and loss.requires_grad:
                loss.register_hook(self.fail)
            return loss

        def fail(self, gradient):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    torch.manual_seed(1)
    net, plain = Failing(weighted).double(), make(weighted)
    recovery, accumulate = OomRecovery(), accumulation(weighted)
    callbacks = [recovery, accumulate] if is_first else [accumulate, recovery]
    fit(net, *callbacks)
    undisturbed = make(weighted)
    fit(undisturbed, accumulation(weighted))
    bare(plain, [windows()] * 2)
    assert recovery.events
    assert gradient_difference(net, plain) < 1e-11
    torch.testing.assert_close(net.losses, undisturbed.losses, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("recovers", [False, True])
def test_with_a_scaler_and_clipping(recovers):
    def half():
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return MixedPrecision("16-mixed", "cpu", scaler)

    sizes = SIZES[-2:]
    both = []
    for batches in (sizes, (sum(sizes),)):
        net = make(True, torch.float32)
        callbacks = [GradientAccumulation(14, loss_weight=class_weight_sum)]
        callbacks += [OomRecovery()] if recovers else []
        fit(net, *callbacks, sizes=batches, plugins=[half()], gradient_clip_val=0.1, max_epochs=1)
        both.append(net)
    assert len(both[0].gradients) == 1
    assert gradient_difference(*both) < 2e-3  # fp16 has 11 bits
    assert max(float(g.abs().max()) for g in both[0].gradients[0]) < 10  # and is not scaled


def test_a_batch_without_a_loss_counts_for_nothing():
    class Skipping(Net):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else self.loss(batch)

    torch.manual_seed(1)
    net, plain = Skipping().double(), make()
    with pytest.warns(UserWarning, match="returned `None`"):
        fit(net, accumulation(), sizes=(8, 8, 8), max_epochs=1)
    x, y = loader((8, 8, 8)).dataset.tensors
    rows = [*range(8), *range(16, 24)]
    plain.loss((x[rows], y[rows])).backward()
    plain.keep()
    assert gradient_difference(net, plain) < 1e-12


def test_a_loader_without_a_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from loader()

    net, plain = make(), make()
    fit(net, accumulation(), batches=torch.utils.data.DataLoader(Stream(), batch_size=None))
    bare(plain, [windows()] * 2)
    assert weight_difference(net, plain) < 1e-11


def test_a_window_that_batches_do_not_add_up_to_is_exact_and_said(caplog):
    sizes = (10,) * 7
    net, plain = make(), make()
    callback = accumulation()
    with caplog.at_level(logging.WARNING, "gpuopt"):
        fit(net, callback, sizes=sizes)
    bare(plain, [windows(sizes)] * 2, sizes=sizes)
    assert weight_difference(net, plain) < 1e-11
    assert caplog.text.count("takes 30 samples instead of 24") == 1
    assert callback.summary()["samples_per_step"] == [10, 30]


def test_an_epoch_smaller_than_the_global_batch_is_said(caplog):
    with caplog.at_level(logging.WARNING, "gpuopt"):
        fit(make(), accumulation(window=500))
    assert f"an epoch has {sum(SIZES)} samples" in caplog.text


class Estimating(Net):
    def configure_optimizers(self):
        self.steps = self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


def test_schedules_are_told_the_number_of_steps():
    torch.manual_seed(1)
    net = Estimating().double()
    batches = torch.utils.data.DataLoader(loader().dataset, batch_size=8)  # 87 samples: 11 batches
    trainer = fit(net, accumulation(), batches=batches)
    assert net.steps == trainer.global_step == 8


def test_no_rounding_error_adds_a_step():
    """The quotient of batches and steps, rounded, may give one step more than there are."""
    batches, per_step = next(
        (n, k)
        for n in range(1, 100)
        for k in range(1, n)
        if math.ceil(n / (n / math.ceil(n / k))) > math.ceil(n / k)
    )
    net = Estimating().double()
    rows = torch.utils.data.DataLoader(loader((1,) * batches).dataset, batch_size=1)
    trainer = fit(net, accumulation(window=per_step), batches=rows)
    assert net.steps == trainer.global_step
    for n in range(1, 400):
        for steps in range(1, n + 1):
            assert math.ceil(n / _batches_per_step(n, steps)) == steps


def test_without_changes_schedules_see_a_whole_number_of_batches_per_step():
    class Asking(Net):
        def configure_optimizers(self):
            self.per_step = self.trainer.accumulate_grad_batches
            return super().configure_optimizers()

    net = Asking().double()
    rows = torch.utils.data.DataLoader(loader().dataset, batch_size=8)
    fit(net, accumulation(), batches=rows)
    assert isinstance(net.per_step, int)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_resumed_it_ends_with_the_same_bits(tmp_path, stop_after):
    """Before the change of the global batch, and after it."""

    class Saving(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch + 1 == stop_after:
                trainer.save_checkpoint(tmp_path / "one.ckpt")

    options = {"global_batch_schedule": {2: 48}, "learning_rate_rule": "sqrt"}
    whole, resumed = make(), make()
    fit(whole, accumulation(**options), Saving(), max_epochs=4)
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback := accumulation(**options)],
    )
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert weight_difference(whole, resumed) == 0.0
    assert len(callback.summary()["changes"]) == 1


# --- what cannot be exact ---------------------------------------------------------------------


def test_manual_optimization_is_refused():
    class Manual(Net):
        automatic_optimization = False

    with pytest.raises(InputError, match="optimizes by hand"):
        fit(Manual(), accumulation())


def test_the_trainers_own_accumulation_is_refused():
    with pytest.raises(InputError, match="leave accumulate_grad_batches out"):
        fit(make(), accumulation(), accumulate_grad_batches=2)


def test_another_callback_that_accumulates_is_refused():
    with pytest.raises(InputError, match="GradientAccumulationScheduler sets"):
        fit(make(), accumulation(), GradientAccumulationScheduler({0: 2}))


@pytest.mark.parametrize("kind", [torch.nn.CrossEntropyLoss, torch.nn.NLLLoss])
def test_a_weighted_loss_without_its_weight_is_refused(kind):
    net = make()
    net.criterion = kind(torch.ones(3, dtype=torch.float64))
    with pytest.raises(InputError, match="give loss_weight"):
        fit(net, accumulation())
    fit(net, accumulation(weighted=True), max_epochs=1)


def test_lbfgs_is_refused():
    with pytest.raises(InputError, match="LBFGS"):
        fit(make(optimizer=torch.optim.LBFGS), accumulation())


def test_the_loop_is_given_back():
    trainer = fit(make(), accumulation())
    loop = trainer.fit_loop.epoch_loop
    assert "_accumulated_batches_reached" not in vars(loop)
    assert (
        not {"_make_zero_grad_fn", "output_result_cls"} & vars(loop.automatic_optimization).keys()
    )
