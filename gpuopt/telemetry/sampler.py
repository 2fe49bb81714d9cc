"""One thread that looks at the devices and the machine, for all who want to know."""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from gpuopt.errors import InputError
from gpuopt.hardware import Device, DeviceReading
from gpuopt.telemetry.energy import EnergyMeter
from gpuopt.telemetry.host import HostMeter
from gpuopt.telemetry.sample import HostReading, Sample
from gpuopt.telemetry.subscription import Subscription
from gpuopt.telemetry.throttling import ThrottleClock

__all__ = ["Sampler", "check_interval"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_HISTORY_SAMPLES = 600  # ten minutes at one per second
_ENERGY_POINTS = 4096  # between which the energy of a stretch can be told
_CAPACITY = 256
_STOP_S = 2.0  # a driver that hangs is not waited for any longer


def check_interval(interval_s: float) -> None:
    """Refuse an interval at which nothing can be sampled.

    Raises:
        InputError: It is not a number of seconds above 0.
    """
    if not (math.isfinite(interval_s) and interval_s > 0):
        raise InputError(f"interval_s={interval_s}: must be a number of seconds above 0")


class Sampler:
    """Reads all devices at a steady rhythm in a thread of its own.

    Readers take the newest sample, the last minutes, or a queue that holds every sample. None of
    them can make the thread wait, and nothing that fails in it reaches them: a device that raises
    has no values in that sample, and whatever else fails is warned of once. As a context manager
    it starts and stops.

    Args:
        devices: What to read, such as `cuda_devices()`; none leaves the machine alone.
        interval_s: From the beginning of one sample to the next; beats that are missed because
            reading takes longer are left out.
        history: Number of newest samples that are kept.
        read_host: Looks at the machine; None reads Linux's own files.
        training: Tells the newest metrics of a run; None leaves them out.
        clock: Monotonic time in seconds.

    Raises:
        InputError: The interval is none.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        interval_s: float = 1.0,
        *,
        history: int = _HISTORY_SAMPLES,
        read_host: Callable[[], HostReading] | None = None,
        training: Callable[[], Mapping[str, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_interval(interval_s)
        self._devices = tuple(devices)
        self._interval_s = interval_s
        self._read_host = HostMeter().read if read_host is None else read_host
        self._training = training
        self._clock = clock
        self._history: deque[Sample] = deque(maxlen=history)
        self._energy = {device.index: EnergyMeter(_ENERGY_POINTS) for device in self._devices}
        self._throttling = {device.index: ThrottleClock() for device in self._devices}
        self._subscriptions: list[Subscription] = []
        self._taking = threading.Lock()
        self._joining = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned: set[tuple[str, str]] = set()
        self._number = 0
        self._is_over = False

    @property
    def interval_s(self) -> float:
        """From the beginning of one sample to the next, in seconds."""
        return self._interval_s

    @property
    def is_running(self) -> bool:
        """Whether the thread is taking samples."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin; the first sample is taken at once, in the thread.

        Raises:
            RuntimeError: It was started before; a sampler runs once.
        """
        if self._thread is not None:
            raise RuntimeError("a Sampler can be started only once")
        thread = threading.Thread(target=self._run, name="gpuopt-telemetry", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Take a last sample, end the thread and the subscriptions; again does nothing.

        Args:
            timeout_s: Longest wait for the thread; a driver that hangs is left to itself.
        """
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        self._end_subscriptions()

    def latest(self) -> Sample | None:
        """Return the newest sample; None before the first."""
        try:
            return self._history[-1]
        except IndexError:
            return None

    def history(self) -> tuple[Sample, ...]:
        """Return the newest samples, oldest first."""
        while True:
            # A deque that grows while it is read says so.
            with contextlib.suppress(RuntimeError):
                return tuple(self._history)

    def subscribe(
        self, capacity: int = _CAPACITY, notify: Callable[[], object] | None = None
    ) -> Subscription:
        """Open a queue that gets every sample from now on.

        Args:
            capacity: Most samples that wait in it; beyond, this reader loses its oldest.
            notify: Called in the sampler's thread after each sample and at the end; must return
                at once, as `loop.call_soon_threadsafe` does.

        Returns:
            Ended already when the sampler is. Close it, or use it in a `with` block.
        """
        subscription = Subscription(capacity, notify)
        with self._joining:
            is_open = not self._is_over
            if is_open:
                self._subscriptions = [*self._open(), subscription]
        if not is_open:
            subscription.end()
        return subscription

    def used_j_between(self, index: int, began_s: float, ended_s: float) -> float | None:
        """Return the energy that a device used in a stretch of time, in joules.

        Args:
            index: Of the device.
            began_s: Of the sampler's clock.
            ended_s: The same.

        Returns:
            None where it is unknown, as before the first sample after the stretch.
        """
        meter = self._energy.get(index)
        return None if meter is None else meter.between(began_s, ended_s)

    def take(self) -> Sample:
        """Take a sample now, in this thread, and give it to all readers."""
        with self._taking:
            sample = self._look()
            self._number += 1
            self._history.append(sample)
            with self._joining:
                readers = self._subscriptions = list(self._open())
            for reader in readers:
                reader.put(sample)
        return sample

    def _run(self) -> None:
        due_s = self._clock()
        try:
            while not self._stopping.is_set():
                self.take()
                late_beats = max(0, int((self._clock() - due_s) // self._interval_s))
                due_s += (1 + late_beats) * self._interval_s
                self._stopping.wait(max(0.0, due_s - self._clock()))
            self.take()
        except Exception as error:  # telemetry never stops what it watches
            self._warn("telemetry has ended", error)
        self._stopping.set()
        self._end_subscriptions()

    def _look(self) -> Sample:
        time_s = time.time()
        readings: list[DeviceReading] = []
        throttled_s: dict[int, dict[str, float]] = {}
        used_j: dict[int, float] = {}
        for device in self._devices:
            index = device.index
            reading = self._read(device)
            at_s = self._clock()
            readings.append(reading)
            throttled_s[index] = self._throttling[index].add(reading, at_s)
            used = self._energy[index].add(reading, at_s)
            if used is not None:
                used_j[index] = used
        host = self._tried("the machine", self._read_host, HostReading())
        training: Mapping[str, float] = {}
        if self._training is not None:
            training = dict(self._tried("the run's metrics", self._training, training))
        return Sample(time_s, tuple(readings), host, throttled_s, training, self._number, used_j)

    def _read(self, device: Device) -> DeviceReading:
        return self._tried(f"GPU {device.index}", device.read, DeviceReading(device.index))

    def _tried(self, what: str, read: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return read()
        except Exception as error:  # whatever it is, the other values stay
            self._warn(f"{what} cannot be read", error)
            return otherwise

    def _warn(self, what: str, error: Exception) -> None:
        name = type(error).__name__
        if (what, name) not in self._warned:
            self._warned.add((what, name))
            _log.warning("%s: %s", what, " ".join(str(error).split()) or name)

    def _open(self) -> Iterator[Subscription]:
        return (reader for reader in self._subscriptions if not reader.is_ended)

    def _end_subscriptions(self) -> None:
        with self._joining:
            self._is_over = True
            readers, self._subscriptions = self._subscriptions, []
        for reader in readers:
            reader.end()

    def __enter__(self) -> "Sampler":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
