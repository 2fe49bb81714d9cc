"""An image classifier around a timm backbone, as a LightningModule usable in any Trainer."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from gpuopt.errors import InputError
from gpuopt.model.network import ImageNetwork
from gpuopt.model.optimizer import AdamW, Sgd, parameter_groups
from gpuopt.model.schedule import CosineSchedule
from gpuopt.model.weighted_mean import WeightedMean

__all__ = ["Classifier", "LabelledImages"]


class LabelledImages(Protocol):
    """What the steps read of a batch; `gpuopt.data.Batch` is one.

    Attributes:
        images: [n, 3, h, w], uint8 or float in 0..255.
        targets: int64 [n].
        weights: float32 [n], shares of the global window's loss, which sum to 1 over the window.
        partner_targets: int64 [n], the second class of a mixed image.
        mix_ratios: float32 [n], share of `targets` in a mixed image, 1 when it is not mixed.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    partner_targets: Tensor
    mix_ratios: Tensor


class Classifier(ImageNetwork, L.LightningModule):
    """Fine-tunes a timm model with cross entropy and reports macro-F1.

    The loss of a batch is weighted by its samples' shares of the global window, so that the
    gradient equals that of one big batch for any micro-batch size, ragged last windows included.
    Images are normalised inside `forward`: uint8 in, logits out.

    Args:
        name: timm model name.
        num_classes: Number of classes.
        pretrained: Start from pretrained weights (see `create_backbone`).
        random_if_offline: Accept random weights when the hub cannot be reached.
        learning_rate: Of the backbone, at the top of the schedule.
        head_learning_rate_ratio: Learning rate of the head / that of the backbone.
        label_smoothing: Share of the target spread over all classes.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth; None keeps the model's default.
        checkpointing: `none`, `stages=K` to recompute the activations of the first K stages in
            the backward pass instead of keeping them, or `full` for all stages.
        channels_last: `auto` (networks with BatchNorm), `true` or `false`.
        batch_norm: `train`, or `frozen` to keep the statistics of the pretrained weights, so that
            the result does not depend on the micro-batch.
        optimizer: Factory of the optimizer.
        scheduler: Factory of the learning-rate schedule.
        global_batch_size: Samples per optimizer step; turns the warm-up into steps.
        total_steps: Optimizer steps of the whole run; None asks the Trainer.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        pretrained: bool = False,
        random_if_offline: bool = False,
        learning_rate: float = 1e-3,
        head_learning_rate_ratio: float = 1.0,
        label_smoothing: float = 0.0,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        checkpointing: str = "none",
        channels_last: str | bool = "auto",
        batch_norm: Literal["train", "frozen"] = "train",
        optimizer: AdamW | Sgd | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        global_batch_size: int = 1,
        total_steps: int | None = None,
    ) -> None:
        super().__init__(
            name,
            num_classes,
            pretrained=pretrained,
            random_if_offline=random_if_offline,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            checkpointing=checkpointing,
            channels_last=channels_last,
            batch_norm=batch_norm,
        )
        self._learning_rate = learning_rate
        self._head_learning_rate_ratio = head_learning_rate_ratio
        self._label_smoothing = label_smoothing
        self._optimizer = optimizer or AdamW()
        self._scheduler = scheduler or CosineSchedule()
        self._global_batch_size = global_batch_size
        self._total_steps = total_steps
        self.training_loss = WeightedMean()
        self.validation_loss = WeightedMean()
        self.validation_f1 = MulticlassF1Score(num_classes, average="macro")
        self.validation_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: LabelledImages, batch_idx: int) -> Tensor:
        """Compute this batch's part of the global window's loss."""
        _, weighted = self.loss(batch)
        share = batch.weights.sum().clamp_min(1e-12)  # a rank's last batch may be all padding
        # Only the epoch's mean: what is logged on a step or shown in the bar is read at once,
        # which makes a GPU wait. `gpuopt.callbacks.StepLog` logs the steps.
        self.training_loss.update(weighted.detach() / share, (batch.weights > 0).sum())
        self.log("train/loss", self.training_loss, on_step=False, on_epoch=True)
        # Lightning divides by the accumulation and, across ranks, averages; both are undone here
        # because the weights already sum to 1 over the window.
        return weighted * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def loss(self, batch: LabelledImages) -> tuple[Tensor, Tensor]:
        """Return float32 logits [n, classes] and this batch's part of the global window's loss."""
        logits = self(batch.images).float()
        return logits, (self._cross_entropy(logits, batch) * batch.weights).sum()

    def _cross_entropy(self, logits: Tensor, batch: LabelledImages) -> Tensor:
        def loss(targets: Tensor) -> Tensor:
            return F.cross_entropy(
                logits, targets, reduction="none", label_smoothing=self._label_smoothing
            )

        own, partner = loss(batch.targets), loss(batch.partner_targets)
        return batch.mix_ratios * own + (1 - batch.mix_ratios) * partner

    def validation_step(self, batch: LabelledImages, batch_idx: int) -> None:
        """Update loss, macro-F1 and accuracy with the real rows of a batch."""
        real = batch.weights > 0  # padding rows keep shapes equal over ranks and count for nothing
        logits, targets = self(batch.images).float()[real], batch.targets[real]
        count = len(targets)
        if count:  # a rank's last batch may be all padding, which torchmetrics does not take
            self.validation_f1.update(logits, targets)
            self.validation_accuracy.update(logits, targets)
            self.validation_loss.update(F.cross_entropy(logits, targets), count)
        self.log("val/loss", self.validation_loss, prog_bar=True, batch_size=count)
        self.log("val/f1", self.validation_f1, prog_bar=True, batch_size=count)
        self.log("val/accuracy", self.validation_accuracy, batch_size=count)

    def configure_optimizers(self) -> Any:
        """Build the optimizer with head and backbone groups, and the schedule per step."""
        groups = parameter_groups(
            self.backbone,
            self._head_parameters(),
            learning_rate=self._learning_rate,
            head_learning_rate=self._learning_rate * self._head_learning_rate_ratio,
            weight_decay=self._optimizer.weight_decay,
        )
        if self._optimizer.offload and self.trainer.precision == "16-mixed":
            raise InputError(
                "optimizer.offload=true: the gradient scaler of fp16 does not know it; "
                "give precision=fp32 or bf16"
            )
        optimizer: Optimizer = self._optimizer(groups, fused=self._may_fuse())
        total_steps = self._total_steps or int(self.trainer.estimated_stepping_batches)
        scheduler = self._scheduler(
            optimizer, total_steps=total_steps, global_batch_size=self._global_batch_size
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; in bfloat16 without Lightning, which refuses every fused optimizer there.

        Its reason, gradients still scaled, holds for float16 only, where `_may_fuse` says no. Of an
        offloaded optimizer it would clip the copies in host memory, which are not complete yet.
        """
        own = self.trainer.precision == "bf16-mixed" or self._optimizer.offload
        if own and gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _may_fuse(self) -> bool:
        clips = self.trainer.gradient_clip_val is not None
        return not (self.trainer.precision == "16-mixed" and clips)

    def _head_parameters(self) -> list[nn.Parameter]:
        backbone: Any = self.backbone  # timm's models have methods that nn.Module does not know
        return list(backbone.get_classifier().parameters())
