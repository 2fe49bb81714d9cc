"""Try a half-precision format on the real model and batch: finite, agreeing with fp32, faster.

A few passes over one micro-batch: one step in the format, one forward pass in each, and a few timed
steps in each. Nothing of the model is changed.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gpuopt.measure.kept_state import kept_state, restarted_generators
from gpuopt.measure.logit_difference import compare_logits

__all__ = ["Forward", "PrecisionProbe", "probe_precision"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Largest difference from fp32 that is rounding: root mean square of the logits' differences, over
# that of the logits. EfficientNet-Lite0 with a new head, which trains well in both formats, has
# 0.18 and 0.03 on a batch of documents (BatchNorm divides by small spreads there); ResNet-50,
# ConvNeXt and ViT have 0.01 and 0.001.
_MOST_DIFFERENCE = {"bf16": 0.3, "fp16": 0.1}
_LEAST_AGREEMENT = 0.995
_LEAST_SPEEDUP = 1.05
_TIMED_STEPS = 3
# Loss scales of fp16, as a GradScaler would come to when gradients overflow at its first one.
_SCALES = (65536.0, 4096.0, 256.0, 16.0, 1.0)


class Forward(Protocol):
    """The real model on the first samples of the real batch."""

    def __call__(self, samples: int) -> tuple[Tensor, Tensor]:
        """Return logits [samples, classes] and the loss to train with."""


@dataclass(frozen=True)
class PrecisionProbe:
    """What was seen.

    Attributes:
        precision: The format that was tried, `bf16` or `fp16`.
        is_accepted: Whether to train in it.
        reason: Why, in one clause with figures.
        samples: Of the step that had to be finite.
        compared_samples: Of the comparison with fp32; fewer when fp32 needs more memory than
            there is, None when there was none.
        difference_ratio: Root mean square of the logits' differences / that of the logits.
        largest_difference_ratio: Largest difference / largest logit.
        top1_agreement: Share of samples with the same class, of those that fp32 decides by more
            than twice the difference that is allowed; None when there are none.
        speedup_ratio: Duration of a step in fp32 / in the format.
    """

    precision: str
    is_accepted: bool
    reason: str
    samples: int
    compared_samples: int | None = None
    difference_ratio: float | None = None
    largest_difference_ratio: float | None = None
    top1_agreement: float | None = None
    speedup_ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def probe_precision(
    module: nn.Module,
    forward: Forward,
    samples: int,
    precision: str,
    device: torch.device,
    *,
    is_out_of_memory: Callable[[BaseException], bool] = lambda error: False,
    clock: Callable[[], float] = time.perf_counter,
) -> PrecisionProbe:
    """Try a format.

    Args:
        module: The model, on its device. Parameters, gradients, buffers, modes and generators of
            random numbers are the same afterwards, to the bit.
        forward: Runs it; called inside of autocast.
        samples: Of the real micro-batch.
        precision: `bf16` or `fp16`.
        device: Of the model.
        is_out_of_memory: Tells the errors after which fewer samples are compared.
        clock: Seconds; read when the device has done its work.

    Raises:
        RuntimeError: When memory runs out in the format itself, which says nothing about it.
    """
    trial = _Trial(module, forward, precision, device, clock)
    with kept_state(module):
        fault = trial.find_overflow(samples)
        if fault is not None:
            return PrecisionProbe(precision, False, fault, samples)
        compared: int | None = samples
        while compared is not None:
            try:
                return _judge(trial, precision, samples, compared)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            module.zero_grad(set_to_none=True)
            gc.collect()
            # BatchNorm needs two samples.
            compared = compared // 2 if compared > 3 else None
    reason = f"finite with {samples} samples; not two fit in fp32 to compare with"
    return PrecisionProbe(precision, True, reason, samples)


def _judge(trial: "_Trial", precision: str, samples: int, compared: int) -> PrecisionProbe:
    full, half = trial.logits(compared)
    found = compare_logits(full, half, _MOST_DIFFERENCE[precision])
    difference, agreement = found.ratio, found.top1_agreement
    speedup = trial.speedup(compared)
    figures = (
        f"{difference:.3f} from fp32 on {compared} samples, "
        f"top-1 {'of none decided' if agreement is None else f'{agreement:.1%} the same'}, "
        f"{speedup:.2f} times as fast"
    )
    faults = []
    if not difference <= _MOST_DIFFERENCE[precision]:
        faults.append(f"logits may differ by {_MOST_DIFFERENCE[precision]}")
    if agreement is not None and agreement < _LEAST_AGREEMENT:
        faults.append(f"top-1 has to agree in {_LEAST_AGREEMENT:.1%}")
    if speedup <= _LEAST_SPEEDUP:
        faults.append(f"it has to be {_LEAST_SPEEDUP} times as fast")
    return PrecisionProbe(
        precision,
        not faults,
        f"{figures}: {', '.join(faults)}" if faults else f"finite, {figures}",
        samples,
        compared,
        difference,
        found.largest_ratio,
        agreement,
        speedup,
    )


class _Trial:
    """The passes of a probe."""

    def __init__(
        self,
        module: nn.Module,
        forward: Forward,
        precision: str,
        device: torch.device,
        clock: Callable[[], float],
    ) -> None:
        self._module = module
        self._forward = forward
        self._dtype = _DTYPES[precision]
        self._device = device
        self._clock = clock
        self._scale = 1.0

    def find_overflow(self, samples: int) -> str | None:
        """Run a step in the format; return what is not finite in it, or None."""
        scales = _SCALES if self._dtype is torch.float16 else (1.0,)
        for scale in scales:
            with restarted_generators(self._device):
                logits = self._step(samples, half=True, scale=scale)
            if not bool(torch.isfinite(logits).all()):
                return f"logits are not finite with {samples} samples"
            if self._has_finite_gradients():
                self._scale = scale
                return None
        return f"gradients are not finite with {samples} samples at a loss scale of {scales[-1]:g}"

    def logits(self, samples: int) -> tuple[Tensor, Tensor]:
        """Return float32 logits of fp32 and of the format, without dropout, with batch statistics.

        Dropout would draw other masks in another format, and the running statistics of a new
        network say nothing of its activations.
        """
        modes = {part: part.training for part in self._module.modules()}
        for part in modes:
            part.training = isinstance(part, _NormBase) and modes[part]
        found = []
        try:
            for half in (False, True):
                with torch.no_grad(), restarted_generators(self._device), self._format(half):
                    found.append(self._forward(samples)[0].float())
        finally:
            for part, mode in modes.items():
                part.training = mode
        return found[0], found[1]

    def speedup(self, samples: int) -> float:
        """Time steps of both in turn, after one of each; return the ratio of their medians."""
        durations: dict[bool, list[float]] = {False: [], True: []}
        for number in range(_TIMED_STEPS + 1):
            for half, found in durations.items():
                start = self._now()
                with restarted_generators(self._device):
                    self._step(samples, half=half, scale=self._scale if half else 1.0)
                duration = self._now() - start
                if number:
                    found.append(duration)
        return statistics.median(durations[False]) / max(statistics.median(durations[True]), 1e-9)

    def _step(self, samples: int, *, half: bool, scale: float) -> Tensor:
        self._module.zero_grad(set_to_none=True)
        with self._format(half):
            logits, loss = self._forward(samples)
        torch.autograd.backward(loss * scale)
        return logits.detach()

    def _has_finite_gradients(self) -> bool:
        gradients = [p.grad for p in self._module.parameters() if p.grad is not None]
        # One number is read, not one per tensor: reading waits for the device.
        return bool(torch.stack([torch.isfinite(grad).all() for grad in gradients]).all())

    @contextlib.contextmanager
    def _format(self, half: bool) -> Iterator[None]:
        """Compute in the format, or in fp32 without tensor cores for matrix products."""
        before = torch.get_float32_matmul_precision()
        if not half:
            torch.set_float32_matmul_precision("highest")
        try:
            with torch.autocast(self._device.type, dtype=self._dtype, enabled=half):
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()
