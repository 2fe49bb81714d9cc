"""What the device alone predicts per second: a job's models and views on images that lie on it."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.opened_run import OpenedRun
from benchmarks.step_setting import synchronizer
from gpuopt.data import decode_image

__all__ = ["DeviceRate", "device_rate", "device_rate_in_new_process"]

_LEAST_CALLS = 3
_MOST_FILES = 64


@dataclass(frozen=True)
class DeviceRate:
    """How fast a device is when it waits for nothing.

    Attributes:
        images_per_second: Images with all their views by all models.
        forwards_per_second: Images through one model.
        batch_size: Images at a time.
        chunk_size: Images per forward.
        batch_s: Duration of each timed batch, with the models of one pass.
    """

    images_per_second: float
    forwards_per_second: float
    batch_size: int
    chunk_size: int
    batch_s: tuple[float, ...]

    def as_dict(self) -> dict[str, object]:
        """Return plain values for a result file."""
        return {**asdict(self), "batch_s": list(self.batch_s)}


def device_rate_in_new_process(
    words: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> DeviceRate:
    """Measure in a process of its own, as commands are; see `device_rate`.

    Args:
        words: As `OpenedRun.open` takes them.
        seconds: About how long.
        environment: Variables to set.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_variables, dict(environment or {}), words, seconds).result()


def _with_variables(
    environment: Mapping[str, str], words: Sequence[str], seconds: float
) -> DeviceRate:
    os.environ.update(environment)
    return device_rate(words, seconds)


def device_rate(
    words: Sequence[str], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> DeviceRate:
    """Predict batches that lie on the device, over and over.

    Args:
        words: As `OpenedRun.open` takes them.
        seconds: About how long, at least three batches.
        clock: Monotonic time in seconds.
    """
    run = OpenedRun.open(words)
    count = run.setup.batch_size
    images = _first_images(Path(run.source.place), run.ensemble.description.image_size, count)
    views, paths = run.config.tta.parsed_views(), run.ensemble.paths
    with run.setup.applied():
        on_device = images.to(run.device)
        # One model in the place of all: they are alike, and loading them would take longer.
        together = run.plan.models_per_pass
        predictor = run.predictor(paths[0], together, views)
        predict = partial(predictor.of_each_model, on_device)
        batch_s = _time_calls(predict, seconds, synchronizer(run.setup.device), clock)
    rate = count / statistics.fmean(batch_s) * together / len(paths)
    forwards = rate * len(views) * len(paths)
    return DeviceRate(rate, forwards, count, run.plan.chunk_size, tuple(batch_s))


def _first_images(folder: Path, image_size: int, count: int) -> Tensor:
    """Read some of the job's images, uint8 [count, 3, s, s], again and again where they are few.

    A card that its power limits computes noise more slowly than pictures.
    """
    files = sorted(folder.glob("*.jpg"))[: min(count, _MOST_FILES)]
    decoded = torch.from_numpy(np.stack([decode_image(file, image_size) for file in files]))
    return decoded.repeat(-(-count // len(files)), 1, 1, 1)[:count]


def _time_calls(
    call: Callable[[], object],
    seconds: float,
    synchronize: Callable[[], object],
    clock: Callable[[], float],
) -> list[float]:
    call()  # loads kernels
    times: list[float] = []
    while len(times) < _LEAST_CALLS or sum(times) < seconds:
        synchronize()
        began = clock()
        call()
        synchronize()
        times.append(clock() - began)
    return times
