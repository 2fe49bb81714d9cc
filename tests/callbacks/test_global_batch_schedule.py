"""Windows of another size from an epoch on, in gpuopt's own data; and killed around the change."""

import logging

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from gpuopt.callbacks import (
    BatchSizeFinder,
    DurableCheckpoint,
    GlobalBatchSchedule,
    GradientAccumulation,
)
from gpuopt.data import Digits
from gpuopt.errors import InputError
from gpuopt.storage.checkpoint_io import DurableCheckpointIO
from tests.callbacks.batches_of_any_size import fit as fit_stock
from tests.callbacks.batches_of_any_size import make
from tests.callbacks.finder_modules import FakeMeter
from tests.data.killed_fits import KillAfter, Killed, SaveAtSteps, SaveEach, Tiny, digest

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")

SIZES = {0: 96, 1: 250, 3: 64}
STEPS = [9, 4, 4, 13]  # of 809 training digits
EPOCHS = len(STEPS)


def data(micro=40, workers=0):
    return Digits(
        image_size=8,
        micro_batch_size=micro,
        global_batch_size=SIZES[0],
        num_workers=workers,
        validation_ratio=0.4,
        mixup_alpha=0.4,
    )


def fit(
    path,
    stop=None,
    resume=False,
    savers=None,
    rule="sqrt",
    kind=Tiny,
    find=None,
    schedule=None,
    **options,
):
    torch.manual_seed(5)
    module, module_data = kind(), data(**options)
    finders = [find(module_data)] if find else []
    schedule = schedule or GlobalBatchSchedule(SIZES[0], SIZES, learning_rate_rule=rule)
    savers = [SaveAtSteps(path)] if savers is None else savers
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        accumulate_grad_batches=module_data.accumulate_grad_batches(),
        logger=False,
        enable_checkpointing=any(isinstance(saver, DurableCheckpoint) for saver in savers),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[schedule, *finders, *savers, KillAfter(stop)],
        plugins=[DurableCheckpointIO()],
    )
    try:
        trainer.fit(module, module_data, ckpt_path=path if resume else None, weights_only=True)
    except Killed:
        assert stop is not None
    return module, trainer, schedule


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole") / "last.ckpt")


def test_every_epoch_has_its_steps_and_every_sample(whole):
    module, trainer, schedule = whole
    assert trainer.global_step == sum(STEPS)
    for epoch in range(EPOCHS):
        ids = [i for at, _, batch in module.seen if at == epoch for i in batch]
        assert sorted(ids) == list(range(809))
    batches = [sum(at == epoch for at, *_ in module.seen) for epoch in range(EPOCHS)]
    assert batches == [26, 23, 23, 26]  # of at most 40: 3 and 7 to a window, then 2
    changes = schedule.summary()["changes"]
    assert [(c["epoch"], c["step"], c["global_batch_size"]) for c in changes] == [
        (1, 9, 250),
        (3, 17, 64),
    ]


def test_the_weights_are_those_of_a_bare_loop_over_whole_windows():
    class Doubled(Tiny):
        """Without augmentation, in fp64, at a learning rate that follows the rule."""

        def __init__(self):
            super().__init__()
            self.double()

        def training_step(self, batch, batch_idx):
            return super().training_step(batch._replace(images=batch.images.double()), batch_idx)

        def on_train_batch_start(self, batch, batch_idx):
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    rates = []
    module, *_ = fit(None, savers=[], rule="linear", kind=Doubled)
    torch.manual_seed(5)
    plain = Tiny().double()
    optimizer = plain.configure_optimizers()
    for epoch in range(EPOCHS):
        size = [size for start, size in SIZES.items() if start <= epoch][-1]
        optimizer.param_groups[0]["lr"] = 1e-2 * size / SIZES[0]
        whole_windows = data(micro=10**6)
        whole_windows.global_batch_size = size
        loader = whole_windows.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            batch = whole_windows.augment(batch)
            optimizer.zero_grad()
            logits = plain.layer(batch.images.double().flatten(1) / 255)
            losses = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
            (losses * batch.weights).sum().backward()
            optimizer.step()
    torch.testing.assert_close(module.layer.weight, plain.layer.weight, rtol=0, atol=1e-9)
    assert len(set(rates)) == 3


@pytest.mark.parametrize(("workers", "stops"), [(0, (8, 9, 17)), (0, (10, 13, 29)), (2, (9, 18))])
def test_killed_and_resumed_around_a_change_it_ends_with_the_same_bits(
    whole, tmp_path, workers, stops
):
    path = tmp_path / "last.ckpt"
    for number, stop in enumerate(stops):
        fit(path, stop=stop, resume=number > 0, workers=workers)
    module, trainer, schedule = fit(path, resume=True, workers=workers)
    assert digest(module) == digest(whole[0])
    assert trainer.global_step == sum(STEPS)
    assert module.seen == whole[0].seen[-len(module.seen) :]
    assert schedule.summary() == whole[2].summary()


def test_checkpoints_on_the_last_batch_of_an_epoch_resume_once(whole, tmp_path):
    """The epoch is over but not yet counted, and its loader is that of the size before."""
    fit(tmp_path / "unused.ckpt", savers=[SaveEach(tmp_path)])
    for step in (9, 10, 13, 17):
        module, *_ = fit(tmp_path / f"{step}.ckpt", resume=True, savers=[])
        assert digest(module) == digest(whole[0]), step


def test_checkpoints_that_come_after_the_change_was_prepared(whole, tmp_path):
    def saver():
        return DurableCheckpoint(tmp_path, every_n_seconds=None)

    fit(None, stop=9, savers=[saver()])
    module, *_ = fit(saver().last_path, resume=True, savers=[saver()])
    assert digest(module) == digest(whole[0])


@pytest.mark.parametrize("stop", [9, 12])
def test_resumed_with_another_micro_batch_size(whole, tmp_path, stop):
    path = tmp_path / "last.ckpt"
    fit(path, stop=stop)
    module, trainer, _ = fit(path, resume=True, micro=25)
    assert trainer.global_step == sum(STEPS)
    torch.testing.assert_close(module.layer.weight, whole[0].layer.weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stop", [9, 12])
def test_resumed_after_a_change_with_a_micro_batch_that_is_searched_for(whole, tmp_path, stop):
    """The search is for the global batch of epoch 0; the windows are those of the checkpoint."""

    class Metered(Tiny):
        def training_step(self, batch, batch_idx):
            meter.take(len(batch.targets))
            return super().training_step(batch, batch_idx)

        def on_train_batch_start(self, batch, batch_idx):
            largest.append(len(batch.targets))

    def find(module_data):
        def set_size(size):
            module_data.micro_batch_size = size

        return BatchSizeFinder(
            meter=meter,
            headroom_ratio=0.0,
            maximum=24,
            global_batch_size=SIZES[0],
            is_ragged=True,
            sample_batch=module_data.sample_batch,
            set_batch_size=set_size,
        )

    path, meter, largest = tmp_path / "last.ckpt", FakeMeter(), []
    fit(path, stop=stop)
    module, trainer, _ = fit(path, resume=True, kind=Metered, find=find)
    assert trainer.global_step == sum(STEPS)
    assert max(largest) == 24
    torch.testing.assert_close(module.layer.weight, whole[0].layer.weight, rtol=0, atol=1e-4)


def test_other_data_are_refused():
    with pytest.raises(InputError, match=r"use GradientAccumulation\(global_batch_schedule"):
        fit_stock(make(), GlobalBatchSchedule(16, {1: 32}))


def test_a_change_is_one_line(caplog, tmp_path):
    with caplog.at_level(logging.INFO, "gpuopt"):
        fit(None, savers=[])
    assert caplog.text.count("250 samples per step instead of 96") == 1
    assert caplog.text.count("64 samples per step instead of 250") == 1


def test_a_second_fit_with_the_same_callback_is_like_the_first(whole):
    schedule = GlobalBatchSchedule(SIZES[0], SIZES, learning_rate_rule="sqrt")
    for _ in range(2):
        module, *_ = fit(None, savers=[], schedule=schedule)
        assert digest(module) == digest(whole[0])
        assert schedule.summary() == whole[2].summary()


def test_gradient_accumulation_leaves_whole_windows_alone():
    """Data that deal out windows weight their own loss, which must not be weighted again."""
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[GradientAccumulation(96)],
    )  # fmt: skip
    with pytest.raises(InputError, match="deal out whole windows"):
        trainer.fit(Tiny(), data(micro=96))
