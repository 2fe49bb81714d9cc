"""Real forward passes at one batch size, with or without the views of test-time augmentation."""

from collections.abc import Callable
from typing import Any

import torch

from gpuopt.memory import ProbeResult
from gpuopt.memory.device_errors import free_memory
from gpuopt.memory.probe_meter import ProbeMeter
from gpuopt.steps.split_step import is_fit_for
from gpuopt.tta.predictor import TooLittleMemoryError, TtaPredictor

__all__ = ["PredictionProbe"]

_PASSES = 3


class PredictionProbe:
    """Predicts a batch a few times, as `gpuopt predict` does.

    The batch before is still on the device when the next one comes. A predictor that had to halve
    its chunk, or could not halve it, ran out of memory.

    Args:
        make_predictor: Makes a predictor for a chunk of so many images.
        image_size: Side in pixels.
        meter: Of the predictor's device.
    """

    def __init__(
        self, make_predictor: Callable[[int], TtaPredictor], image_size: int, meter: ProbeMeter
    ) -> None:
        self._make_predictor = make_predictor
        self._image_size = image_size
        self._meter = meter

    def __call__(self, samples: int) -> ProbeResult:
        """Measure a batch size; running out of memory is a result."""
        measured: dict[str, Any] = {}
        self._meter.start()
        with self._meter.capped():
            has_fit = is_fit_for(lambda: measured.update(self._run(samples)))
            peak = self._meter.peak_bytes()
        free_memory()
        capacity = self._meter.capacity_bytes()
        if not has_fit or measured.pop("ran_out"):
            return ProbeResult(samples, capacity_bytes=capacity, ran_out_of_memory=True)
        # Its tensors alone decide nothing: nobody has looked whether the allocator thrashes.
        return ProbeResult(samples, peak, capacity_bytes=capacity, **measured)

    def _run(self, samples: int) -> dict[str, Any]:
        predictor, started = self._make_predictor(samples), 0.0
        resident = self._meter.resident_bytes()
        on_host = torch.zeros(samples, 3, self._image_size, self._image_size, dtype=torch.uint8)
        before = images = None
        for number in range(_PASSES):
            if number == 1:
                started = self._meter.clock_s()
            before, images = images, on_host.to(predictor.device)
            try:
                predictor(images)
            except TooLittleMemoryError:  # for one image
                return {"ran_out": True}
        seconds = (self._meter.clock_s() - started) / (_PASSES - 1)
        del before, images
        return {
            "seconds_per_step": seconds,
            "resident_bytes": resident,
            "ran_out": predictor.chunk_size != samples,
        }
