"""A fit that is stopped and resumed anywhere ends with the weights of one that was not."""

import lightning.pytorch as L
import pytest
import torch

from gpuopt.data import Augmentation, Digits
from gpuopt.errors import InputError
from tests.data.killed_fits import KillAfter, Killed, SaveAtSteps, SaveEach, Tiny, digest

# On a machine with a GPU, Lightning remarks on every Trainer that is told to use the CPU.
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")

EPOCHS = 3
GLOBAL, MICRO = 96, 40  # 809 training digits: 8 windows of 3 micro-batches, one of 2
STEPS_PER_EPOCH = 9


def data(workers=0, micro=MICRO, **changes):
    settings = {
        "image_size": 8,
        "micro_batch_size": micro,
        "global_batch_size": GLOBAL,
        "num_workers": workers,
        "validation_ratio": 0.4,
        "augmentation": Augmentation(),
        "mixup_alpha": 0.4,
        "cutmix_alpha": 0.4,
    }
    return Digits(**{**settings, **changes})


def fit(path, stop=None, resume=False, savers=None, **changes):
    torch.manual_seed(5)
    module, module_data = Tiny(), data(**changes)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        accumulate_grad_batches=module_data.accumulate_grad_batches(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*([SaveAtSteps(path)] if savers is None else savers), KillAfter(stop)],
    )
    try:
        trainer.fit(module, module_data, ckpt_path=path if resume else None, weights_only=True)
    except Killed:
        assert stop is not None
    return module, trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    module, trainer = fit(tmp_path_factory.mktemp("whole") / "last.ckpt")
    assert trainer.global_step == EPOCHS * STEPS_PER_EPOCH
    return module


def test_every_sample_is_seen_once_an_epoch(whole):
    for epoch in range(EPOCHS):
        ids = [i for at, _, batch in whole.seen if at == epoch for i in batch]
        assert sorted(ids) == list(range(len(ids)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stops", [(4,), (9, 18), (2, 3, 11, 17), (8, 10, 26)])
def test_resumed_run_equals_whole_run(whole, tmp_path, workers, stops):
    path = tmp_path / "last.ckpt"
    for number, stop in enumerate(stops):
        fit(path, stop=stop, resume=number > 0, workers=workers)
    module, trainer = fit(path, resume=True, workers=workers)
    assert digest(module) == digest(whole)
    assert trainer.global_step == EPOCHS * STEPS_PER_EPOCH
    assert module.seen == whole.seen[-len(module.seen) :]


def test_checkpoints_on_the_last_batch_of_an_epoch_resume_once(whole, tmp_path):
    """Such as a ModelCheckpoint writes: the epoch is over, but not yet counted."""
    fit(tmp_path / "unused.ckpt", savers=[SaveEach(tmp_path)])
    for step in (8, 9, 10, 18):
        module, _ = fit(tmp_path / f"{step}.ckpt", resume=True, savers=[])
        assert digest(module) == digest(whole), step


@pytest.mark.parametrize("stop", [4, 9, 13])
def test_resume_with_another_micro_batch_size(whole, tmp_path, stop):
    """Micro-batches are the GPU's business: the windows that follow are the same."""
    path = tmp_path / "last.ckpt"
    fit(path, stop=stop)
    module, trainer = fit(path, resume=True, micro=20)
    assert trainer.global_step == EPOCHS * STEPS_PER_EPOCH
    torch.testing.assert_close(module.layer.weight, whole.layer.weight, rtol=0, atol=1e-5)
    # The first window after the resume is the one that the whole run took next.
    window = [i for _, _, ids in module.seen[:5] for i in ids]
    first = 3 * (stop % STEPS_PER_EPOCH) + 26 * (stop // STEPS_PER_EPOCH)
    assert sorted(window) == sorted(i for _, _, ids in whole.seen[first : first + 3] for i in ids)


def test_resume_on_other_data_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    fit(path, stop=4)
    with pytest.raises(InputError, match="another set of images or classes"):
        fit(path, resume=True, validation_ratio=0.3)
    with pytest.raises(InputError, match="another global_batch_size"):
        fit(path, resume=True, global_batch_size=100)


def test_trainer_that_accumulates_otherwise_is_refused(tmp_path):
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="needs accumulate_grad_batches=3, not 1"):
        trainer.fit(Tiny(), data())
