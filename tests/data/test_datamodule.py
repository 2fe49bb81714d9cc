import inspect
import os
import signal

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from gpuopt.data import (
    ArrayImages,
    Augmentation,
    DataSets,
    Digits,
    ImageCsv,
    ImageDataModule,
    ImageFolder,
    ImageSet,
)
from gpuopt.errors import FaultError, InputError

# On a machine with a GPU, Lightning remarks on every Trainer that is told to use the CPU.
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class Noise(ImageDataModule):
    """Three uneven classes of random images that are kept in memory."""

    def __init__(self, counts=(12, 6, 3), store=ArrayImages, **options):
        self.counts = counts
        self.store = store
        super().__init__(**options)

    def read_sets(self):
        targets = np.repeat(np.arange(len(self.counts)), self.counts)
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (len(targets), 3, 8, 8), dtype=np.uint8)
        ids = [f"n{i}" for i in range(len(targets))]
        labelled = ImageSet(ids, targets, self.store(images))
        return DataSets(["a", "b", "c"], labelled, labelled, labelled)


def noise(**options):
    sizes = {"image_size": 8, "micro_batch_size": 4, "global_batch_size": 10}
    return Noise(**{**sizes, **options})


def pixels(data, micro, workers=0, world=1, epoch=0):
    """What training makes of each sample, by its id."""
    data.micro_batch_size, data.num_workers = micro, workers
    found = {}
    for rank in range(world):
        data._place = lambda rank=rank: (rank, world)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            for row, weight, image in zip(
                batch.ids, batch.weights, data.augment(batch).images, strict=True
            ):
                if weight > 0:
                    found[int(row)] = image
    assert len(found) == data.train_size
    return torch.stack([found[row] for row in sorted(found)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("micro", "world"), [(1, 1), (3, 1), (10, 1), (4, 2), (2, 3)])
def test_pixels_depend_on_seed_epoch_and_sample_only(micro, world, workers):
    def data():
        return noise(augmentation=Augmentation(), mixup_alpha=0.5, cutmix_alpha=0.5)

    wanted = pixels(data(), 5)
    assert torch.equal(pixels(data(), micro, workers, world), wanted)
    assert not torch.equal(pixels(data(), 5, epoch=1), wanted)


def test_augment_without_augmentation_only_converts():
    data = noise()
    batch = next(iter(data.train_dataloader()))
    made = data.augment(batch)
    assert made.images.dtype == torch.float32
    assert torch.equal(made.images, batch.images.float())


def test_balanced_classes_weigh_the_same():
    totals = {}
    for kind in ("none", "balanced"):
        weights = np.zeros(3)
        for batch in noise(class_weights=kind, global_batch_size=21).train_dataloader():
            np.add.at(weights, batch.targets.numpy(), batch.weights.numpy())
        totals[kind] = weights
    assert totals["none"] == pytest.approx(np.array([12, 6, 3]) / 21)
    assert totals["balanced"] == pytest.approx(np.full(3, 1 / 3))


def test_evaluation_batch_size():
    def sizes(data):
        loaders = (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
        found = {tuple(len(batch.images) for batch in loader) for loader in loaders}
        assert len(found) == 1
        return found.pop()

    assert sizes(noise()) == (4, 4, 4, 4, 4, 1)
    assert sizes(noise(evaluation_batch_size=11)) == (11, 10)


def test_accumulation():
    assert noise().accumulate_grad_batches() == 3
    assert noise().accumulate_grad_batches(2) == 2


def test_data_is_read_once():
    data = noise()
    calls = []
    read = data.read_sets
    data.read_sets = lambda: calls.append(1) or read()
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    _ = data.train_size, data.fingerprint, data.test_ids
    assert calls == [1]


class Watching(L.LightningModule):
    """Notes what the batches look like in each stage."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {}

    def note(self, stage, batch):
        kind = (batch.images.dtype, len(batch.partner_images))
        self.seen.setdefault(stage, set()).add(kind)
        self.seen.setdefault(f"{stage} ids", []).extend(batch.ids.tolist())
        return (self.layer(batch.images.float().mean((1, 2, 3))[:, None]) ** 2).mean()

    def training_step(self, batch, batch_idx):
        return self.note("train", batch)

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def predict_step(self, batch, batch_idx):
        return self.note("predict", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-9)


@pytest.mark.parametrize("workers", [0, 1])
def test_only_training_batches_are_mixed_and_augmented(workers):
    """Sanity check, validation in the epoch, test and prediction see the pixels as decoded."""
    data = noise(augmentation=Augmentation(), mixup_alpha=0.5, num_workers=workers)
    module = Watching()
    trainer = L.Trainer(
        **QUIET, max_epochs=2, accumulate_grad_batches=3, val_check_interval=4,
        num_sanity_val_steps=2,
    )  # fmt: skip
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    trainer.predict(module, data)
    assert module.seen["train"] == {(torch.float32, 0)}
    for stage in ("val", "test", "predict"):
        assert module.seen[stage] == {(torch.uint8, 0)}
    assert module.seen["test ids"] == module.seen["predict ids"] == list(range(21))
    for epoch in range(2):
        ids = module.seen["train ids"][21 * epoch : 21 * epoch + 21]
        assert sorted(ids) == list(range(21))


class Deadly(ArrayImages):
    """Kills the worker that reads the last row."""

    def read(self, rows):
        if len(self) - 1 in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(rows)


def test_worker_killed_in_mid_epoch_ends_the_fit():
    data = noise(store=Deadly, num_workers=2)
    trainer = L.Trainer(
        **QUIET, max_epochs=50, accumulate_grad_batches=3, num_sanity_val_steps=0,
        limit_val_batches=0,
    )  # fmt: skip
    with pytest.raises((FaultError, RuntimeError), match="worker"):
        trainer.fit(Watching(), data)


@pytest.mark.parametrize("kind", [Digits, ImageFolder, ImageCsv, Noise])
def test_signature_names_every_option(kind):
    parameters = inspect.signature(kind).parameters
    common = inspect.signature(ImageDataModule.__init__).parameters
    assert set(common) - {"self"} <= set(parameters)
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image_size", 0),
        ("image_size", 5000),
        ("image_size", 8.0),
        ("micro_batch_size", 0),
        ("micro_batch_size", True),
        ("global_batch_size", -4),
        ("num_workers", -1),
        ("seed", -1),
        ("evaluation_batch_size", 0),
        ("validation_ratio", 0.0),
        ("validation_ratio", 1.0),
        ("class_weights", "balance"),
        ("mixup_alpha", -0.1),
        ("cutmix_alpha", float("nan")),
        ("cache", "maybe"),
        ("cache_limit_gib", -1.0),
        ("max_rejected_ratio", 1.1),
        ("worker_timeout_s", -1.0),
        ("folds", 1),
        ("fold", 0),
    ],
)
def test_absurd_options_are_refused_by_name(option, value):
    with pytest.raises(InputError, match=f"{option}=") as caught:
        noise(**{option: value})
    assert "\n" not in str(caught.value)


def test_a_data_set_has_to_list_its_images():
    with pytest.raises(TypeError, match="read_sets"):
        ImageDataModule(image_size=8, micro_batch_size=4, global_batch_size=8)


def test_misspelt_options_are_refused():
    with pytest.raises(TypeError, match="micro_batchsize"):
        noise(micro_batchsize=4)


def test_fold_and_folds_fit_together():
    class Whole(Noise):
        def read_sets(self):
            sets = super().read_sets()
            return DataSets(sets.class_names, sets.train, None, sets.test)

    sizes = {"image_size": 8, "micro_batch_size": 4, "global_batch_size": 10}
    assert Whole(**sizes, folds=3, fold=2).validation_size == 7
    for folds, fold in ((3, 3), (3, -1), (21, 0), (3, True)):
        with pytest.raises(InputError, match="is not a whole number from"):
            Whole(**sizes, folds=folds, fold=fold)
