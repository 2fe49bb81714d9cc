"""From the settings of `gpuopt diagnose` to its answer, one function for each `target=`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import RenderableType

from gpuopt.callbacks.bottleneck_probe import BottleneckProbe
from gpuopt.diagnosed_run import opened_run, train_with
from gpuopt.diagnosis.bottleneck import BottleneckDiagnosis, find_bottlenecks
from gpuopt.diagnosis.bottleneck_table import bottleneck_tables
from gpuopt.schema import DiagnoseConfig

__all__ = ["Answer", "diagnose"]


class Answer(Protocol):
    """A diagnosis, for people and for programs."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without `schema` and `target`."""

    def __rich__(self) -> RenderableType:
        """Return what a terminal shows, at most 100 columns wide."""


def diagnose(config: DiagnoseConfig, show: Callable[[str], None]) -> Answer:
    """Make a diagnosis.

    Args:
        config: The checked settings.
        show: Told how far it is.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    return _TARGETS[config.target](config, show)


@dataclass(frozen=True)
class _Bottlenecks:
    title: str
    diagnosis: BottleneckDiagnosis

    def as_dict(self) -> dict[str, Any]:
        return {"training": self.title, **self.diagnosis.as_dict()}

    def __rich__(self) -> RenderableType:
        return bottleneck_tables(self.title, self.diagnosis)


def _bottleneck(config: DiagnoseConfig, show: Callable[[str], None]) -> Answer:
    rounds = config.rounds
    with opened_run(config) as run:
        show(f"{run.title}: first steps")
        probe = BottleneckProbe(
            rounds, on_round=lambda done: show(f"{run.title}: round {done} of {rounds}")
        )
        train_with(run, probe)
        assert probe.measured is not None  # the fit goes on until it is
        return _Bottlenecks(run.title, find_bottlenecks(probe.measured, run.setting))


_TARGETS: dict[str, Callable[[DiagnoseConfig, Callable[[str], None]], Answer]] = {
    "bottleneck": _bottleneck,
}
