"""What this machine, or a named card, can do, on one screen: `gpuopt check report=summary`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gpuopt.checks.lines import gib, or_na, pitfall_table, rate_text
from gpuopt.checks.pitfall import Pitfall, find_pitfalls
from gpuopt.checks.planned_speed import PlannedSpeed, plan_speed
from gpuopt.checks.request import CheckRequest
from gpuopt.checks.subject import Subject, build_for, subjects
from gpuopt.choice import Choice
from gpuopt.hardware import Machine, TorchBuild, resolve_precision
from gpuopt.report.tables import PlanRow, plan_table

__all__ = ["DeviceSummary", "SummaryReport", "report"]


@dataclass(frozen=True)
class DeviceSummary:
    """One device.

    Attributes:
        subject: The device.
        precision: That `auto` takes on it.
        speed: Of the model in question.
        pitfalls: To know about.
    """

    subject: Subject
    precision: Choice
    speed: PlannedSpeed
    pitfalls: Sequence[Pitfall]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        gpu, card = self.subject.gpu, self.subject.card
        return {
            "gpu": self.subject.preset,
            "name": gpu.name,
            "is_here": not self.subject.is_absent,
            "compute_capability": gpu.compute_capability,
            "memory_mib": gpu.memory_mib,
            "memory_used_bytes": None if card is None else card.used_bytes,
            "precision": self.precision.as_dict(),
            "speed": self.speed.as_dict(),
            "pitfalls": [pitfall.as_dict() for pitfall in self.pitfalls],
        }


@dataclass(frozen=True)
class SummaryReport:
    """The answer.

    Attributes:
        machine: This machine.
        build: The installed PyTorch.
        devices: In CUDA's order.
        words: Settings with which another report is about the same.
    """

    machine: Machine
    build: TorchBuild
    devices: Sequence[DeviceSummary]
    words: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "host": self.machine.host.as_dict(),
            "driver": self.machine.driver,
            "driver_cuda": self.machine.driver_cuda,
            "torch": self.build.version,
            "torch_cuda": self.build.cuda,
            "devices": [device.as_dict() for device in self.devices],
        }

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        host = self.machine.host
        parts: list[RenderableType] = [
            plan_table(
                [
                    PlanRow("processors", f"{host.cpus} of {host.machine_cpus}, {host.processor}"),
                    PlanRow("memory", gib(host.memory_bytes)),
                    PlanRow("PyTorch", f"{or_na(self.build.version)}, CUDA {_cuda(self.build)}"),
                    PlanRow("driver", _driver(self.machine)),
                ],
                "This machine",
            )
        ]
        for device in self.devices:
            parts.append(plan_table(_rows(device), _title(device.subject)))
            parts.append(pitfall_table(device.pitfalls))
        command = shlex.join(["gpuopt", "check", "report=recommend", *self.words])
        parts.append(Text(f"What to set: {command}", style="bold"))
        return Group(*parts)


def report(request: CheckRequest) -> SummaryReport:
    """Look at the machine and predict the model's speed on each device in question.

    Raises:
        InputError: When timm does not know the model, it does not take the size, or no device can
            compute in the precision.
    """
    machine, found = request.look(), subjects(request)
    build = build_for(request, found)
    return SummaryReport(
        machine,
        build,
        [_summary(request, machine, build, subject) for subject in found],
        _further_words(request),
    )


def _further_words(request: CheckRequest) -> list[str]:
    """Return the settings with which another report is about the same."""
    if request.gpu.memory_gib is None:
        return list(request.words)
    # For a training the memory of a card without a name is a limit.
    words = [word for word in request.words if not word.startswith("gpu.memory_limit_mib=")]
    return [*words, f"gpu.memory_gib={request.gpu.memory_gib:g}"]


def _summary(
    request: CheckRequest, machine: Machine, build: TorchBuild, subject: Subject
) -> DeviceSummary:
    return DeviceSummary(
        subject,
        resolve_precision(request.precision, subject.gpu, is_cuda=not subject.gpu.is_cpu),
        plan_speed(
            subject.gpu,
            request.model,
            request.asked_size,
            precision=request.precision,
            optimizer=request.optimizer,
            moving_average=request.moving_average,
            cache_dir=request.cache_dir,
        ),
        find_pitfalls(subject, machine, build),
    )


def _title(subject: Subject) -> str:
    if subject.card is not None:
        return f"Device {subject.card.device.index}: {subject.gpu.name}"
    return "No GPU: the processors" if subject.gpu.is_cpu else f"{subject.gpu.name}: not here"


def _rows(device: DeviceSummary) -> list[PlanRow]:
    gpu, card, speed = device.subject.gpu, device.subject.card, device.speed
    rows = [PlanRow("why", device.subject.reason)]
    if not gpu.is_cpu:
        rows.append(PlanRow("card", f"gpu={device.subject.preset}, {_facts(device.subject)}"))
    if card is not None:
        free = None if card.used_bytes is None else card.device.total_memory - card.used_bytes
        rows.append(PlanRow("memory free", f"{gib(free)} of {gib(card.device.total_memory)}"))
    choice = device.precision
    rows.append(PlanRow("precision", f"{choice.value}: {choice.reason}", choice.evidence))
    rows.append(PlanRow("model", f"{speed.model_name} at {speed.image_size} px"))
    if speed.largest is not None:
        fits = f"{speed.largest} samples at once"
        if speed.checkpointing != "none":
            fits += f"; {speed.micro_batch_size} with model.checkpointing={speed.checkpointing}"
        rows.append(PlanRow("fits", fits, "predicted"))
    rows.append(PlanRow("training", rate_text(speed.train_per_s), "predicted"))
    rows.append(PlanRow("prediction", rate_text(speed.predict_per_s), "predicted"))
    return rows


def _facts(subject: Subject) -> str:
    gpu = subject.gpu
    memory = None if gpu.memory_mib is None else gpu.memory_mib * 2**20
    return (
        f"{gib(memory)}, SM {or_na(gpu.compute_capability)}, "
        f"{or_na(gpu.tensor_tflops or gpu.fp32_tflops, 'TFLOP/s')}, "
        f"{or_na(gpu.memory_bandwidth_gb_per_s, 'GB/s')}"
    )


def _cuda(build: TorchBuild) -> str:
    return "none" if build.cuda is None else build.cuda


def _driver(machine: Machine) -> str:
    if machine.driver is None:
        return "no NVIDIA driver"
    return f"{machine.driver}, runs CUDA up to {or_na(machine.driver_cuda)}"
