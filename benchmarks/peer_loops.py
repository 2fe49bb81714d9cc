"""The loops that gpuopt's Trainer is measured against."""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import timm
import timm.loss
import timm.models
import timm.optim
import timm.scheduler
import timm.utils
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.step_setting import (
    CLIP_NORM,
    LABEL_SMOOTHING,
    LEARNING_RATE,
    WEIGHT_DECAY,
    StepSetting,
)

__all__ = ["BareLoop", "NormalisedNetwork", "Peer", "TimmLoop"]

# timm has no types: its public names count as private to a type checker.
_timm: Any = timm
_log = logging.getLogger(__name__)

Batches = Iterator[tuple[Tensor, Tensor]]


class Peer(Protocol):
    """A training loop that is driven step by step."""

    def step(self) -> None:
        """Do one optimizer step with all its micro-batches."""


class NormalisedNetwork(nn.Module):
    """A network behind the normalisation and memory format that gpuopt's model uses.

    Args:
        network: Maps normalised images to logits.
        mean: [1, 3, 1, 1] in 0..255.
        std: [1, 3, 1, 1] in 0..255.
        channels_last: Whether the images are laid out so.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, channels_last: bool) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: Tensor) -> Tensor:
        """Classify float images [n, 3, h, w] in 0..255."""
        normalised = (images - self.mean) / self.std
        logits: Tensor = self.network(normalised.contiguous(memory_format=self._format))
        return logits


class BareLoop:
    """What a careful person writes by hand: nothing but the step.

    Args:
        model: On the device, in training mode.
        batches: Micro-batches on the device, without end.
        setting: Of the step.
        total_steps: Length of the schedule.
    """

    def __init__(
        self, model: nn.Module, batches: Batches, setting: StepSetting, total_steps: int
    ) -> None:
        self._model = model
        self._batches = batches
        self._setting = setting
        matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        self._parameters = matrices + vectors
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: (1 + math.cos(math.pi * step / total_steps)) / 2
        )
        self._scaler = torch.amp.GradScaler(setting.device, enabled=setting.precision == "fp16")

    def step(self) -> None:
        """Do one optimizer step."""
        for _ in range(self._setting.accumulate):
            images, targets = next(self._batches)
            with self._setting.autocast():
                logits = self._model(images)
            loss = functional.cross_entropy(
                logits.float(), targets, label_smoothing=LABEL_SMOOTHING
            )
            torch.autograd.backward(self._scaler.scale(loss / self._setting.accumulate))
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()


class TimmLoop:
    """The inner loop of timm's `train.py`, put together from timm's public parts.

    The script is not in timm's wheel. Followed as of 2026-08-08 (aa4b5850) with `--opt adamw
    --smoothing 0.1 --clip-grad 1 --amp`, without EMA: the loss is read after every micro-batch,
    cuDNN chooses its kernels by trying them, the optimizer is timm's default.

    Args:
        model: On the device, in training mode.
        batches: Micro-batches on the device, without end.
        setting: Of the step.
        log_interval: Optimizer steps between two log lines.
    """

    def __init__(
        self, model: nn.Module, batches: Batches, setting: StepSetting, log_interval: int = 50
    ) -> None:
        self._model = model
        self._batches = batches
        self._setting = setting
        self._log_interval = log_interval
        self._loss = _timm.loss.LabelSmoothingCrossEntropy(LABEL_SMOOTHING).to(setting.device)
        self._optimizer = _timm.optim.create_optimizer_v2(
            model, opt="adamw", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self._schedule, _ = _timm.scheduler.create_scheduler_v2(self._optimizer, sched="cosine")
        scaled = setting.precision == "fp16"
        self._scaler = _timm.utils.NativeScaler(device=setting.device) if scaled else None
        self._updates = 0
        self._losses, self._times = _timm.utils.AverageMeter(), _timm.utils.AverageMeter()
        self._began = time.time()

    def step(self) -> None:
        """Do one optimizer step, with cuDNN set as the script sets it."""
        chosen = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            for number in range(1, self._setting.accumulate + 1):
                self._micro_batch(need_update=number == self._setting.accumulate)
        finally:
            torch.backends.cudnn.benchmark = chosen
        self._updates += 1
        self._optimizer.zero_grad()
        now = time.time()
        self._times.update(now - self._began)
        self._began = now
        if self._updates % self._log_interval == 0:
            self._report()
        self._schedule.step_update(num_updates=self._updates, metric=self._losses.avg)

    def _micro_batch(self, *, need_update: bool) -> None:
        images, targets = next(self._batches)
        with self._setting.autocast():
            loss = self._loss(self._model(images), targets)
        if self._setting.accumulate > 1:
            loss = loss / self._setting.accumulate
        if self._scaler is not None:
            self._scaler(
                loss,
                self._optimizer,
                clip_grad=CLIP_NORM,
                parameters=_timm.models.model_parameters(self._model),
                need_update=need_update,
            )
        else:
            loss.backward()
            if need_update:
                parameters = _timm.models.model_parameters(self._model)
                _timm.utils.dispatch_clip_grad(parameters, value=CLIP_NORM)
                self._optimizer.step()
        self._losses.update(loss.item() * self._setting.accumulate, len(images))

    def _report(self) -> None:
        rates = [group["lr"] for group in self._optimizer.param_groups]
        _log.info(
            "update %d  loss %.3g (%.3g)  %.3f s (%.3f s)  learning rate %.3e",
            self._updates,
            self._losses.val,
            self._losses.avg,
            self._times.val,
            self._times.avg,
            sum(rates) / len(rates),
        )
