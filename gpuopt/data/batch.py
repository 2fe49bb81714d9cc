"""What every loader yields: one micro-batch as a tuple of tensors."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch"]


class Batch(NamedTuple):
    """One micro-batch; a NamedTuple, so that Lightning and PyTorch move and pin it.

    Attributes:
        images: uint8 [n, 3, s, s] as decoded. A training batch holds float32 in 0..255 once
            `ImageDataModule.on_after_batch_transfer` has mixed and augmented it.
        targets: int64 [n], the class; -1 where it is unknown.
        ids: int64 [n], the row of each sample in its split.
        weights: float32 [n]. Training: the sample's share in the loss of its global window; over
            all ranks and micro-batches of a window they sum to 1. Evaluation: 1 for a sample,
            0 for padding.
        partner_targets: int64 [n], the class of the mixing partner (`targets` when not mixed).
        mix_ratios: float32 [n], share of `targets` in the mixed label (1 when not mixed).
        partner_images: uint8 [n, 3, s, s] of the mixing partners, or [0, 3, s, s] when the window
            is not mixed or the batch has been mixed already.
        boxes: int64 [n, 4], the cutmix boxes (x0, y0, x1, y1) that the partner fills; zeros for
            mixup and for unmixed windows.
        uniforms: float32 [n, AUGMENTATION_UNIFORMS] in [0, 1), drawn from (seed, epoch, sample)
            alone, which drive the augmentation; zeros in evaluation.
    """

    images: Tensor
    targets: Tensor
    ids: Tensor
    weights: Tensor
    partner_targets: Tensor
    mix_ratios: Tensor
    partner_images: Tensor
    boxes: Tensor
    uniforms: Tensor
