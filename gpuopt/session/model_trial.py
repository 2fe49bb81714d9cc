"""Real steps and forward passes of a model on random images, timed: samples a second."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gpuopt.errors import FaultError
from gpuopt.memory.device_errors import free_memory, is_out_of_memory
from gpuopt.model import Classifier
from gpuopt.session.forward_pass import autocast_of

__all__ = ["ModelTrial", "try_model"]

_CLASSES = 17
_MOST_STEPS = 50
_LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class ModelTrial:
    """What was measured, loading left out.

    Attributes:
        train_batch_size: Samples of a step.
        train_per_s: Samples a second in training, forward, backward and optimizer.
        predict_batch_size: Samples of a forward pass.
        predict_per_s: Samples a second in prediction.
    """

    train_batch_size: int
    train_per_s: float
    predict_batch_size: int
    predict_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def try_model(
    name: str,
    image_size: int,
    *,
    precision: str,
    device: torch.device,
    train_batch_size: int,
    predict_batch_size: int,
    checkpointing: str = "none",
    budget_s: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
) -> ModelTrial:
    """Time a model with random weights and random images.

    Where memory runs out the batch is halved until it fits.

    Args:
        name: timm model name.
        image_size: Side in pixels.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        device: To run on.
        train_batch_size: Samples of a step.
        predict_batch_size: Samples of a forward pass.
        checkpointing: How much is recomputed in backward.
        budget_s: About how long each of both may take; one step is taken in any case.
        clock: Seconds.

    Raises:
        InputError: When timm does not know the model or it has no such level.
        FaultError: When not one sample fits.
    """
    model = Classifier(name, _CLASSES, checkpointing=checkpointing).to(device)
    trial = _Trial(model, image_size, precision, device, budget_s, clock)
    train_size, train_per_s = trial.fitting(trial.training, train_batch_size)
    model.zero_grad(set_to_none=True)
    predict_size, predict_per_s = trial.fitting(trial.prediction, predict_batch_size)
    return ModelTrial(train_size, train_per_s, predict_size, predict_per_s)


class _Trial:
    """The passes of a trial."""

    def __init__(
        self,
        model: Classifier,
        image_size: int,
        precision: str,
        device: torch.device,
        budget_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._size = image_size
        self._device = device
        self._autocast = autocast_of(precision, device)
        is_fp16 = precision == "fp16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=is_fp16)
        self._budget_s = budget_s
        self._clock = clock

    def fitting(self, time_it: Callable[[int], float], samples: int) -> tuple[int, float]:
        """Return a batch that fits and its samples a second."""
        while samples > 0:
            try:
                return samples, time_it(samples)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._model.zero_grad(set_to_none=True)
            free_memory()
            samples //= 2
        raise FaultError(
            f"not one sample of {self._model.name} at {self._size} px fits the device: end other "
            "processes on it, or take a smaller model"
        )

    def training(self, samples: int) -> float:
        """Time optimizer steps."""
        model, images = self._model.train(), self._images(samples)
        targets = torch.arange(samples, device=self._device) % _CLASSES
        # As in training: under fp16 with clipping the optimizer is not fused.
        fused = self._device.type == "cuda" and not self._scaler.is_enabled()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, fused=fused)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                loss = functional.cross_entropy(model(images).float(), targets)
            torch.autograd.backward(self._scaler.scale(loss))
            self._scaler.step(optimizer)
            self._scaler.update()

        return samples / self._seconds(step)

    def prediction(self, samples: int) -> float:
        """Time forward passes."""
        model, images = self._model.eval(), self._images(samples)

        def step() -> None:
            with torch.inference_mode(), self._autocast():
                model(images)

        return samples / self._seconds(step)

    def _images(self, samples: int) -> Tensor:
        shape = (samples, 3, self._size, self._size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self._device)

    def _seconds(self, step: Callable[[], None]) -> float:
        """Return the seconds of a step; the first ones choose kernels and do not count."""
        first_s = self._span(step, 1)
        if first_s > self._budget_s:
            return first_s
        one_s = self._span(step, 2) / 2
        steps = max(1, min(_MOST_STEPS, int(self._budget_s / max(one_s, 1e-9))))
        return max(self._span(step, steps) / steps, 1e-12)

    def _span(self, step: Callable[[], None], count: int) -> float:
        self._wait()
        began = self._clock()
        for _ in range(count):
            step()
        self._wait()
        return self._clock() - began

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
