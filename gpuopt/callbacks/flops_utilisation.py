"""Which share of a card's peak of operations the training reaches (MFU)."""

import logging
from typing import Any

import lightning.pytorch as L
import torch

from gpuopt.hardware import Gpu, select_gpu, shipped_catalogue
from gpuopt.measure.roofline import dense_flops_per_s
from gpuopt.steps.forward_flops import ForwardWatch, is_compiled

__all__ = ["FlopsUtilisation"]

_log = logging.getLogger(__name__)

_TRAINING_FACTOR = 3  # forward, gradient of inputs, gradient of weights
_ATTEMPTS = 3  # batches, where memory runs out in the first ones
_FORMATS = {
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "16-mixed": "fp16",
    "16-true": "fp16",
    "32-true": "fp32",
}


class FlopsUtilisation:
    """Divides the operations of training, three times those of forward, by the dense peak.

    Unknown without a GPU, for a card whose peak is unknown, and where forward cannot be counted:
    in a compiled module, one that optimizes by hand, and one that cannot be copied.

    Args:
        forward_flops: Of one sample; None counts them in the first batch.
        card: On which it trains; None asks CUDA and the presets.
        precision: `fp32`, `tf32`, `bf16` or `fp16`; None asks the Trainer.
    """

    def __init__(
        self,
        forward_flops: float | None = None,
        card: Gpu | None = None,
        precision: str | None = None,
    ) -> None:
        self._forward_flops = forward_flops
        self._card = card
        self._precision = precision
        self._peak_flops_per_s: float | None = None
        self._convolution_peak_flops_per_s: float | None = None
        self._convolution_ratio = 0.0
        self._watch: ForwardWatch | None = None
        self._attempts = 0

    def begin(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Find the peak of all devices; they are taken to be alike."""
        card = self._card or _card_of(module.device)
        precision = self._precision or _precision_of(trainer, card)
        peak = _peak(card, precision, trainer.world_size)
        self._peak_flops_per_s = self._convolution_peak_flops_per_s = peak
        if not self._precision and precision == "fp32" and _has_tf32(card) and _convolves_in_tf32():
            self._convolution_peak_flops_per_s = _peak(card, "tf32", trainer.world_size)
        is_wanted = peak is not None and self._forward_flops is None and trainer.is_global_zero
        self._attempts = _ATTEMPTS if is_wanted else 0
        if is_wanted and (is_compiled(module) or not module.automatic_optimization):
            self._attempts = 0
            _log.info(
                "MFU is unknown: in a module that is compiled or optimizes by hand, forward is not "
                "counted; give GpuStats(forward_flops=...)"
            )

    def batch_begins(self, module: L.LightningModule) -> None:
        """Watch a batch where that is still wanted."""
        self.stop()
        if self._attempts > 0 and not is_compiled(module):
            self._attempts -= 1
            try:
                self._watch = ForwardWatch(module)
            except Exception as error:  # anybody's module may do what it likes; training goes on
                self._give_up(error)

    def backward_begins(self) -> None:
        """See no more: what backward computes again is not a part of forward."""
        if self._watch is not None:
            self._watch.stop()

    def batch_ends(self, samples: int) -> None:
        """Count what was watched.

        Args:
            samples: Of the batch.
        """
        if self._watch is None:
            return
        watch, self._watch = self._watch, None
        watch.stop()
        try:
            flops = watch.count()
        except Exception as error:  # as above
            self._give_up(error)
            return
        if flops:
            self._forward_flops, self._attempts = flops / max(1, samples), 0
            self._convolution_ratio = watch.convolution_ratio

    def _give_up(self, error: Exception) -> None:
        self._attempts = 0
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        _log.info("MFU is unknown: forward cannot be counted: %s", reason)

    def stop(self) -> None:
        """Take away what watches the module."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def ratio(self, samples_per_second: float) -> float | None:
        """Return the share of the peak, of all devices together; None where it is unknown."""
        peak, of_convolutions = self._peak_flops_per_s, self._convolution_peak_flops_per_s
        if peak is None or of_convolutions is None or not self._forward_flops:
            return None
        share = self._convolution_ratio
        seconds_per_flop = share / of_convolutions + (1 - share) / peak
        return _TRAINING_FACTOR * self._forward_flops * samples_per_second * seconds_per_flop


def _card_of(device: torch.device) -> Gpu | None:
    if device.type != "cuda":
        return None
    catalogue = shipped_catalogue()
    properties = torch.cuda.get_device_properties(device)
    return select_gpu(catalogue["auto"], properties, catalogue)[0]


def _precision_of(trainer: L.Trainer, card: Gpu | None) -> str | None:
    precision = _FORMATS.get(str(trainer.precision))
    # Not `torch.get_float32_matmul_precision`, which raises where this newer setting was used.
    allows_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    if precision == "fp32" and allows_tf32 and _has_tf32(card):
        return "tf32"
    if precision == "bf16" and card is not None and card.bf16_native is False:
        return None  # emulated, at no rate that a table knows
    return precision


def _peak(card: Gpu | None, precision: str | None, devices: int) -> float | None:
    peak = None if card is None or precision is None else dense_flops_per_s(card, precision)
    return None if peak is None else peak * devices


def _has_tf32(card: Gpu | None) -> bool:
    return card is not None and bool(card.bf16_native)  # the cards that have the one have the other


def _convolves_in_tf32() -> bool:
    """Tell whether convolutions in fp32 use TF32, as they do unless PyTorch is told otherwise."""
    cudnn: Any = torch.backends.cudnn  # its types leave this setting out
    return bool(cudnn.conv.fp32_precision == "tf32")
