"""From the settings of `gpuopt diagnose` to its answer, one function for each `target=`."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from rich.console import RenderableType

from gpuopt.callbacks.bottleneck_probe import BottleneckProbe
from gpuopt.callbacks.leak_watch import LeakWatch
from gpuopt.diagnosed_run import run_setting, run_title, train_with
from gpuopt.diagnosis.bottleneck import BottleneckDiagnosis, find_bottlenecks
from gpuopt.diagnosis.bottleneck_table import bottleneck_tables
from gpuopt.diagnosis.cleanup import held_memory
from gpuopt.diagnosis.leak import LeakDiagnosis
from gpuopt.diagnosis.tables import cleanup_table, leak_table, throttle_table
from gpuopt.diagnosis.throttle import throttling_of
from gpuopt.errors import InputError
from gpuopt.hardware import Device, cuda_devices, host_memory_bytes
from gpuopt.measure import duration_text
from gpuopt.memory.process_memory import resident_bytes, worker_bytes
from gpuopt.schema import DiagnoseConfig
from gpuopt.telemetry.sampler import Sampler
from gpuopt.throwaway_run import opened_run

__all__ = ["Answer", "diagnose"]

Show = Callable[[str], None]


class Diagnosis(Protocol):
    """What a target finds out."""

    @property
    def verdict(self) -> str:
        """The finding in one sentence."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""


@dataclass(frozen=True)
class Answer:
    """A diagnosis, for people and for programs.

    Attributes:
        diagnosis: What was found.
        table: What a terminal shows, at most 100 columns wide.
        training: What was trained; empty without a training.
    """

    diagnosis: Diagnosis
    table: RenderableType
    training: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without `schema` and `target`."""
        training = {"training": self.training} if self.training else {}
        return {**training, **self.diagnosis.as_dict()}

    def __rich__(self) -> RenderableType:
        return self.table


def diagnose(config: DiagnoseConfig, show: Show) -> Answer:
    """Make a diagnosis.

    Args:
        config: The checked settings.
        show: Told how far it is.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    return _TARGETS[config.target](config, show)


def _bottleneck(config: DiagnoseConfig, show: Show) -> Answer:
    rounds = config.rounds
    with opened_run(config) as run:
        show(f"{run_title(run)}: first steps")
        probe = BottleneckProbe(rounds, on_round=lambda done: show(f"round {done} of {rounds}"))
        train_with(run, probe)
        assert probe.measured is not None  # the fit goes on until it is
        diagnosis: BottleneckDiagnosis = find_bottlenecks(probe.measured, run_setting(run))
        return Answer(diagnosis, bottleneck_tables(run_title(run), diagnosis), run_title(run))


def _leak(config: DiagnoseConfig, show: Show) -> Answer:
    length = duration_text(config.duration)
    with opened_run(config) as run:
        watch = LeakWatch(
            config.duration,
            config.threshold_mib,
            ends_fit=True,
            on_reading=lambda over_s: show(f"watched for {over_s:.0f} s of {length}"),
        )
        train_with(run, watch)
        diagnosis = LeakDiagnosis(
            watch.series,
            watch.growth,
            watch.sites,
            watch.containers,
            watch.cycles,
            _free_bytes(run.plan.accelerator == "cuda"),
        )
        return Answer(diagnosis, leak_table(run_title(run), diagnosis), run_title(run))


def _throttle(config: DiagnoseConfig, show: Show) -> Answer:
    devices = _devices(config)
    if not devices:
        raise InputError(
            "target=throttle: no NVIDIA GPU can be read here, and the clock of a CPU is not "
            "watched: run it on the machine that has the GPU"
        )
    history = 2 + int(config.duration / config.interval)
    sampler = Sampler(devices, config.interval, history=history)
    end_s = time.monotonic() + config.duration

    def is_over() -> bool:
        left_s = end_s - time.monotonic()
        show(f"watching for {max(0.0, left_s):.0f} s more")
        return left_s <= 0

    with contextlib.ExitStack() as stack:
        run = stack.enter_context(opened_run(config)) if config.load == "train" else None
        end_s = time.monotonic() + config.duration  # what was built before does not count
        with sampler:
            if run is not None:
                train_with(run, None, stops=is_over)
            while not is_over():
                time.sleep(min(config.interval, max(0.0, end_s - time.monotonic())))
    diagnosis = throttling_of(sampler.history())
    return Answer(diagnosis, throttle_table(diagnosis), "" if run is None else run_title(run))


def _cleanup(config: DiagnoseConfig, show: Show) -> Answer:
    diagnosis = held_memory(_devices(config, details=True))
    return Answer(diagnosis, cleanup_table(diagnosis))


def _devices(config: DiagnoseConfig, *, details: bool = False) -> list[Device]:
    return [] if config.gpu.is_cpu else cuda_devices(details=details)


def _free_bytes(is_cuda: bool) -> dict[str, int]:
    """Return by kind of growth how much more memory there is."""
    host_bytes = host_memory_bytes() - (resident_bytes() or 0) - (worker_bytes() or 0)
    if not is_cuda:
        return dict.fromkeys(("leak", "host", "loader"), host_bytes)
    free_bytes, _ = torch.cuda.mem_get_info()
    cached_bytes = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return {
        "leak": free_bytes + cached_bytes,
        "fragmentation": free_bytes,
        "host": host_bytes,
        "loader": host_bytes,
    }


_TARGETS: dict[str, Callable[[DiagnoseConfig, Show], Answer]] = {
    "bottleneck": _bottleneck,
    "cleanup": _cleanup,
    "leak": _leak,
    "throttle": _throttle,
}
