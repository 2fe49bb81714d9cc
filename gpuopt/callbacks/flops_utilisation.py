"""Which share of a card's peak of operations the training reaches (MFU)."""

import logging

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
        self._watch: ForwardWatch | None = None
        self._attempts = 0

    def begin(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Find the peak of all devices; they are taken to be alike."""
        card = self._card or _card_of(module.device)
        precision = self._precision or _precision_of(trainer, card)
        peak = None if card is None or precision is None else dense_flops_per_s(card, precision)
        self._peak_flops_per_s = None if peak is None else peak * trainer.world_size
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
        if self._peak_flops_per_s is None or not self._forward_flops:
            return None
        return _TRAINING_FACTOR * self._forward_flops * samples_per_second / self._peak_flops_per_s


def _card_of(device: torch.device) -> Gpu | None:
    if device.type != "cuda":
        return None
    catalogue = shipped_catalogue()
    properties = torch.cuda.get_device_properties(device)
    return select_gpu(catalogue["auto"], properties, catalogue)[0]


def _precision_of(trainer: L.Trainer, card: Gpu | None) -> str | None:
    precision = _FORMATS.get(str(trainer.precision))
    allows_tf32 = torch.get_float32_matmul_precision() != "highest"
    if precision == "fp32" and allows_tf32 and card is not None and card.bf16_native:
        return "tf32"  # the cards that have the one have the other
    if precision == "bf16" and card is not None and card.bf16_native is False:
        return None  # emulated, at no rate that a table knows
    return precision
