import copy
from typing import NamedTuple

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gpuopt.errors import InputError
from gpuopt.model import AdamW, Classifier, ConstantSchedule, Sgd


class Labelled(NamedTuple):
    images: Tensor
    targets: Tensor
    weights: Tensor
    partner_targets: Tensor
    mix_ratios: Tensor


def labelled(count: int, classes: int = 3, seed: int = 0) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Labelled(
        images, targets, torch.full((count,), 1 / count), targets.flip(0), torch.full((count,), 0.7)
    )


def cut(batch: Labelled, sizes: list[int]) -> list[Labelled]:
    return [
        Labelled(*parts) for parts in zip(*(field.split(sizes) for field in batch), strict=True)
    ]


def train(model: Classifier, batches: list[Labelled], accumulate: int, **options) -> None:
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        **options,
    )
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(model, loader, DataLoader(batches[:1], batch_size=None))


def classifier(**options) -> Classifier:
    torch.manual_seed(0)
    settings = {"optimizer": Sgd(momentum=0.0, weight_decay=0.0), "scheduler": ConstantSchedule()}
    return Classifier("test_vit", 3, learning_rate=0.1, **(settings | options))


@pytest.mark.parametrize("sizes", [[12, 12], [8, 8, 8], [5, 5, 5, 5, 4], [24]])
def test_accumulated_gradient_equals_one_big_batch(sizes):
    """Ragged chunks included: each sample weighs the same, to 1e-6 in fp32."""
    batch = labelled(24)
    whole, parts = classifier(), classifier()
    train(whole, [batch], 1)
    train(parts, cut(batch, sizes), len(sizes))
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


def test_a_ragged_last_window_equals_one_big_batch_of_its_size():
    """Lightning divides by the full accumulation; the weights undo it for the short window."""
    last = labelled(8, seed=1)
    whole, parts = classifier(), classifier()
    train(whole, [labelled(24), last], 1)
    train(parts, [*cut(labelled(24), [8, 8, 8]), last], 3)
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


def test_loss_is_cross_entropy_of_the_mixed_label():
    model, batch = classifier(label_smoothing=0.1), labelled(6)
    logits = model(batch.images).float()
    soft = 0.7 * torch.eye(3)[batch.targets] + 0.3 * torch.eye(3)[batch.partner_targets]
    expected = torch.nn.functional.cross_entropy(logits, soft, label_smoothing=0.1)
    torch.testing.assert_close(model._cross_entropy(logits, batch).mean(), expected)


def test_forward_normalises_bytes_and_floats_alike():
    model = classifier().eval()
    images = labelled(2).images
    with torch.inference_mode():
        torch.testing.assert_close(model(images), model(images.float()))


def test_validation_ignores_padding():
    model = classifier().eval()
    batch = labelled(6)
    padded = Labelled(*(torch.cat([field, field[:2]]) for field in batch))
    padded = padded._replace(weights=torch.tensor([1.0] * 6 + [0.0] * 2))
    scores = []
    for given in (batch._replace(weights=torch.ones(6)), padded):
        twin = copy.deepcopy(model)
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        scores.append(
            trainer.validate(twin, DataLoader([given], batch_size=None), verbose=False)[0]
        )
    assert scores[0] == scores[1]


def test_channels_last_only_where_batchnorm_is():
    assert Classifier("test_efficientnet", 2).uses_channels_last
    assert not classifier().uses_channels_last
    assert not Classifier("test_efficientnet", 2, channels_last=False).uses_channels_last
    with pytest.raises(InputError, match="channels_last"):
        Classifier("test_efficientnet", 2, channels_last="maybe")


def test_checkpointing_gives_the_same_gradient():
    batch = labelled(4)
    plain, recomputed = classifier(), classifier(checkpointing="full")
    train(plain, [batch], 1)
    train(recomputed, [batch], 1)
    for left, right in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(left, right)
    with pytest.raises(InputError, match="checkpointing"):
        classifier(checkpointing="half")


def test_head_learns_faster_by_its_ratio():
    model = classifier(head_learning_rate_ratio=4.0)
    rates = {}

    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module):
            rates.update({g["name"]: g["lr"] for g in trainer.optimizers[0].param_groups})

    train(model, [labelled(4)], 1, callbacks=[Look()])
    assert rates["head"] == pytest.approx(0.4)
    assert rates["backbone"] == pytest.approx(0.1)


def test_compiling_in_place_keeps_the_names_of_the_weights():
    model = classifier()
    names = list(model.state_dict())
    model.backbone.compile(backend="eager")
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_clipping_bounds_the_gradient(precision):
    norms = []
    model = classifier(optimizer=AdamW())
    original = model.configure_gradient_clipping

    def clipped(optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        original(optimizer, gradient_clip_val, gradient_clip_algorithm)
        norms.append(
            float(
                torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters()]))
            )
        )

    model.configure_gradient_clipping = clipped
    train(model, [labelled(8)], 1, precision=precision, gradient_clip_val=0.01)
    assert norms == [pytest.approx(0.01, rel=1e-2)]


def test_the_fused_optimizer_is_given_up_only_for_scaled_clipping():
    """float16 with clipping, on a CPU with its own scaler, as a GPU has it."""
    from lightning.pytorch.plugins.precision import MixedPrecision

    fused = {}

    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module):
            fused[trainer.precision, trainer.gradient_clip_val] = bool(
                trainer.optimizers[0].defaults["fused"]
            )

    for clip in (None, 1.0):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        train(
            classifier(optimizer=AdamW()),
            [labelled(8)],
            1,
            plugins=[plugin],
            gradient_clip_val=clip,
            callbacks=[Look()],
        )
        train(
            classifier(optimizer=AdamW()),
            [labelled(8)],
            1,
            gradient_clip_val=clip,
            callbacks=[Look()],
        )
    assert fused == {
        ("16-mixed", None): True,
        ("16-mixed", 1.0): False,
        ("32-true", None): True,
        ("32-true", 1.0): True,
    }


def test_a_validation_batch_of_padding_counts_for_nothing():
    """A rank's last batch may have no real row, when the images do not go round."""
    model, batch = classifier().eval(), labelled(8)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    padding = batch._replace(weights=torch.zeros(8))
    (with_padding,) = trainer.validate(model, DataLoader([batch, padding], batch_size=None))
    (without,) = trainer.validate(model, DataLoader([batch], batch_size=None))
    assert with_padding == without
    assert with_padding["val/loss"] > 0
