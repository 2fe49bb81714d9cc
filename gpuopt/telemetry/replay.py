"""A log as the source of samples, at the pace at which they were taken or another."""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from gpuopt.errors import InputError
from gpuopt.telemetry.jsonl import LONGEST_LINE_BYTES
from gpuopt.telemetry.record import from_record
from gpuopt.telemetry.sample import Sample
from gpuopt.telemetry.subscription import Subscription

__all__ = ["Replay", "read_log"]

_log = logging.getLogger(__name__)

_LONGEST_GAP_S = 10.0  # between the samples of two monitors that wrote into one log
_CAPACITY = 4096
_STOP_S = 2.0


class Replay:
    """Gives the samples of a log to its readers as the `Sampler` gave those of the devices.

    Args:
        path: What `JsonlLog` wrote.
        speed: How many recorded seconds go by in one.
        device_ids: Indices of the devices to show; None shows all.

    Raises:
        InputError: When there is no log, or it has not all of these devices.
    """

    def __init__(
        self, path: Path, speed: float = 1.0, device_ids: Collection[int] | None = None
    ) -> None:
        self._samples = read_log(path)
        self._first = next(self._samples, None)
        if self._first is None:
            raise InputError(f"replay={path} holds no samples of gpuopt's monitor: name its log")
        known = [reading.index for reading in self._first.devices]
        for index in device_ids or ():
            if index not in known:
                self._samples.close()
                raise InputError(
                    f"gpu_ids: there is no GPU {index} in {path}, which has {known or 'none'}"
                )
        self._speed = speed
        self._device_ids = device_ids
        self._subscriptions: list[Subscription] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuopt-replay", daemon=True)

    def subscribe(
        self, capacity: int = _CAPACITY, notify: Callable[[], object] | None = None
    ) -> Subscription:
        """Open a queue; as `Sampler.subscribe`, but before the start."""
        subscription = Subscription(capacity, notify)
        self._subscriptions.append(subscription)
        return subscription

    def start(self) -> None:
        """Begin to play."""
        self._thread.start()

    def stop(self) -> None:
        """End the playing and the subscriptions."""
        self._stopping.set()
        if self._thread.ident is None:
            self._samples.close()
        else:
            self._thread.join(_STOP_S)
        self._end()

    def _run(self) -> None:
        with contextlib.closing(self._samples):
            self._play()
        self._end()

    def _play(self) -> None:
        before: float | None = None
        for number, sample in enumerate(self._all()):
            if before is not None:
                gap_s = min(max(sample.time_s - before, 0.0), _LONGEST_GAP_S)
                self._stopping.wait(gap_s / self._speed)
            if self._stopping.is_set():
                return
            before = sample.time_s
            for subscription in self._subscriptions:
                subscription.put(replace(sample, number=number))

    def _all(self) -> Iterator[Sample]:
        assert self._first is not None  # refused when it was opened
        yield self._shown(self._first)
        for sample in self._samples:
            yield self._shown(sample)

    def _shown(self, sample: Sample) -> Sample:
        ids = self._device_ids
        if ids is None:
            return sample
        return replace(sample, devices=tuple(d for d in sample.devices if d.index in ids))

    def _end(self) -> None:
        for subscription in self._subscriptions:
            subscription.end()


def read_log(path: Path) -> Generator[Sample, None, None]:
    """Read a log, a line at a time; lines that are torn or of another schema are left out.

    Raises:
        InputError: When the file cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputError(f"replay={path} cannot be read ({error.strerror})") from error
    return _samples(stream, path)


def _samples(stream: IO[bytes], path: Path) -> Generator[Sample, None, None]:
    left_out = 0
    with stream:
        while line := stream.readline(LONGEST_LINE_BYTES):
            try:
                yield from_record(json.loads(line))
            except (ValueError, RecursionError):
                left_out += 1
    if left_out:
        _log.warning("replay=%s: %d lines are no samples and were left out", path, left_out)
