"""Predict how long predicting with views takes on a card that is not here."""

import functools

from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, resolve_precision
from gpuopt.measure.roofline import gpu_rates, kept_forward_flops, predict_forward_s
from gpuopt.memory import MemoryEstimate, MemorySetup, choose_prediction_batch, predict_memory
from gpuopt.tta.time_model import TtaTime

__all__ = ["forecast_tta_time"]

# Assumptions: imports, weights and the start of CUDA; a few passes over the pixels for each view.
_STARTUP_S = 10.0
_VIEW_BYTES_PER_VALUE = 24.0


def forecast_tta_time(
    model_name: str,
    image_size: int,
    gpu: Gpu,
    *,
    precision: str = "auto",
    decode_s: float = 0.0,
    batch_size: int | str = "auto",
    cache_dir: str | None = None,
) -> TtaTime:
    """Predict the parts of the time from the card's peak rates.

    Args:
        model_name: timm model name.
        image_size: Side in pixels.
        gpu: The card.
        precision: `auto` takes the card's own.
        decode_s: Seconds to decode an image, where it is known.
        batch_size: Images per forward, of which no more are taken than fit; `auto` takes what
            fits, as far as throughput grows.
        cache_dir: Folder of all caches; None means the user's cache folder.

    Raises:
        InputError: When the card's rates are unknown, it cannot compute in the precision, not one
            image fits, or the model cannot be followed.
    """
    arithmetic = str(resolve_precision(precision, gpu, is_cuda=True).value)
    rates = gpu_rates(gpu, arithmetic)
    if rates is None:
        raise InputError(
            f"gpu={gpu.name}: its peak rates are unknown, from which the time is predicted: name "
            "a card of the catalogue, or give gpu.fp32_tflops and gpu.memory_bandwidth_gb_per_s"
        )
    inference = MemorySetup(model_name, image_size, arithmetic, training=False)
    memory = _memory(inference, cache_dir)
    chunk = int(choose_prediction_batch(gpu, memory).value)  # refuses when nothing fits
    if batch_size != "auto":  # as many are loaded, and go through the model as far as they fit
        chunk = min(int(batch_size), memory.largest_batch(gpu.budget_bytes()))
    training = MemorySetup(model_name, image_size, arithmetic)
    saved_bytes = _memory(training, cache_dir).bytes_per_sample
    flops = kept_forward_flops(model_name, image_size, cache_dir)
    view_s = _VIEW_BYTES_PER_VALUE * 3 * image_size**2 / rates.bytes_per_s
    forward = predict_forward_s(flops, saved_bytes, rates)
    return TtaTime(
        startup_s=_STARTUP_S,
        overhead_s=0.0,
        image_s=0.0,
        decode_s=decode_s,
        forward_s=forward.value + view_s,
        view_s={},
        low_ratio=forward.low / forward.value,
        high_ratio=forward.high / forward.value,
        chunk_size=chunk,
        evidence="predicted",
        reason=f"from the peak rates of {gpu.name} in {arithmetic}, loading left out",
    )


@functools.cache  # the cards of a catalogue share it
def _memory(setup: MemorySetup, cache_dir: str | None) -> MemoryEstimate:
    return predict_memory(setup, cache_dir=cache_dir)
