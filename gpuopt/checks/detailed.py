"""All facts about cards, driver, PyTorch and machine: `gpuopt check report=detailed`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from gpuopt.checks.lines import facts_table, gib, or_na, pitfall_table
from gpuopt.checks.pitfall import Pitfall, find_pitfalls
from gpuopt.checks.request import CheckRequest
from gpuopt.checks.subject import Subject, subjects
from gpuopt.hardware import CardFacts, Gpu, Host, InstalledCard, Machine, TorchBuild

__all__ = ["DetailedReport", "report"]


@dataclass(frozen=True)
class DetailedReport:
    """The answer.

    Attributes:
        machine: This machine.
        build: The installed PyTorch.
        devices: In CUDA's order.
        pitfalls: Of all devices.
    """

    machine: Machine
    build: TorchBuild
    devices: Sequence[Subject]
    pitfalls: Sequence[Pitfall]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "machine": self.machine.as_dict(),
            "build": self.build.as_dict(),
            "devices": [
                {
                    "gpu": subject.preset,
                    "name": subject.gpu.name,
                    "is_here": not subject.is_absent,
                    "facts": dict(_gpu_rows(subject.gpu)),
                }
                for subject in self.devices
            ],
            "pitfalls": [pitfall.as_dict() for pitfall in self.pitfalls],
        }

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        machine, build = self.machine, self.build
        parts: list[RenderableType] = []
        for subject in self.devices:
            if subject.card is not None:
                title = f"Device {subject.card.device.index}: {subject.card.device.name}"
                parts.append(facts_table(title, _card_rows(subject.card), ("", "")))
                parts.append(_processes(subject.card))
            if not subject.gpu.is_cpu:
                title = f"{subject.gpu.name}, as gpu={subject.preset} has it"
                parts.append(facts_table(title, _gpu_rows(subject.gpu), ("", "")))
        if machine.links:
            rows = [
                (
                    f"{link.first} to {link.second}",
                    or_na(link.path),
                    or_na(link.reads_peer),
                    or_na(link.nvlinks),
                )
                for link in machine.links
            ]
            headings = ("devices", "path", "reads the other's memory", "NVLinks")
            parts.append(facts_table("Between the cards", rows, headings))
        parts.append(facts_table("This machine", _host_rows(machine.host), ("", "")))
        parts.append(facts_table("Installed", _build_rows(machine, build), ("", "")))
        return Group(*parts, pitfall_table(self.pitfalls))


def report(request: CheckRequest) -> DetailedReport:
    """Collect the facts.

    Raises:
        InputError: When overrides do not fit the card that was found.
    """
    machine, build, found = request.look(), request.look_at_build(), subjects(request)
    pitfalls = [pitfall for subject in found for pitfall in find_pitfalls(subject, machine, build)]
    return DetailedReport(machine, build, found, list(dict.fromkeys(pitfalls)))


def _card_rows(card: InstalledCard) -> list[tuple[str, str]]:
    device, reading, facts = card.device, card.reading, card.facts
    total, used = device.total_memory, card.used_bytes
    throttle = reading.throttle_reasons
    held = None if throttle is None else ", ".join(throttle) or "nothing"
    return [
        ("memory", f"{gib(total)}; {gib(used)} used, {_free(total, used)} free"),
        ("compute capability", f"{card.capability}, {device.multi_processor_count} SMs"),
        (
            "clocks",
            f"SM {_of(reading.sm_clock_mhz, facts.sm_clock_limit_mhz)} MHz, memory "
            f"{_of(reading.memory_clock_mhz, facts.memory_clock_limit_mhz)} MHz",
        ),
        ("held down by", or_na(held)),
        ("power", _power(card)),
        ("temperature", or_na(reading.temperature_c, "degrees")),
        ("PCIe", _link(facts)),
        ("ECC", f"{_on(facts.is_ecc_on)}; {or_na(reading.ecc_uncorrected)} uncorrected errors"),
        ("MIG", _on(facts.is_mig_on)),
        ("NUMA node", or_na(facts.numa_node)),
        ("persistence", _on(facts.is_persistent)),
        ("compute mode", or_na(facts.compute_mode)),
        ("UUID", or_na(device.uuid)),
    ]


def _gpu_rows(gpu: Gpu) -> list[tuple[str, str]]:
    memory = None if gpu.memory_mib is None else gpu.memory_mib * 2**20
    return [
        ("memory", gib(memory)),
        ("architecture", f"{or_na(gpu.architecture)}, SM {or_na(gpu.compute_capability)}"),
        ("multiprocessors", or_na(gpu.sm_count)),
        ("memory bandwidth", or_na(gpu.memory_bandwidth_gb_per_s, "GB/s")),
        ("fp32", or_na(gpu.fp32_tflops, "TFLOP/s")),
        ("tensor cores", or_na(gpu.tensor_tflops, "TFLOP/s dense in fp16 and bf16")),
        ("bf16 in hardware", or_na(gpu.bf16_native)),
        ("FP8", or_na(gpu.fp8)),
        ("power as shipped", or_na(gpu.tdp_w, "W")),
        ("precision", or_na(gpu.precision)),
        ("loaders", or_na(gpu.num_workers)),
    ]


def _host_rows(host: Host) -> list[tuple[str, str]]:
    return [
        ("processor", host.processor),
        ("CPUs", f"{host.cpus} of {host.machine_cpus} may be used"),
        ("memory", gib(host.memory_bytes)),
        ("WSL", or_na(host.is_wsl)),
        ("shared memory", host.full_shared_memory or "enough"),
        ("CUDA_VISIBLE_DEVICES", or_na(host.visible_devices)),
    ]


def _build_rows(machine: Machine, build: TorchBuild) -> list[tuple[str, str]]:
    return [
        ("driver", f"{or_na(machine.driver)}, CUDA up to {or_na(machine.driver_cuda)}"),
        ("PyTorch", f"{or_na(build.version)}, CUDA {or_na(build.cuda)}"),
        ("architectures", ", ".join(build.arch_list or ()) or or_na(None)),
        ("cuDNN", or_na(build.cudnn)),
        ("NCCL", or_na(build.nccl)),
        ("ONNX providers", ", ".join(build.onnx_providers or ()) or or_na(None)),
        *((name, or_na(found)) for name, found in build.packages.items() if name != "torch"),
    ]


def _processes(card: InstalledCard) -> RenderableType:
    rows = [
        (str(process.pid), or_na(process.name), gib(process.memory_used_bytes))
        for process in card.reading.processes or ()
    ]
    if not rows:
        known = card.reading.processes is not None
        rows = [("none" if known else or_na(None), "", "")]
    return facts_table("Processes that hold its memory", rows, ("pid", "name", "memory"))


def _power(card: InstalledCard) -> str:
    facts = card.facts
    limit = facts.power_limit_w or card.reading.power_limit_w
    words = f"{or_na(card.reading.power_w)} of {or_na(limit)} W; as shipped "
    words += or_na(facts.power_default_w, "W")
    if facts.power_range_w is not None:
        low, high = facts.power_range_w
        words += f", may be set from {low:g} to {high:g} W"
    return words


def _link(facts: CardFacts) -> str:
    lanes = _of(facts.pcie_width, facts.pcie_width_limit)
    return f"generation {or_na(facts.pcie_generation)}, {lanes} lanes"


def _of(value: int | None, most: int | None) -> str:
    return f"{or_na(value)} of {or_na(most)}"


def _on(value: bool | None) -> str:
    return or_na(None) if value is None else "on" if value else "off"


def _free(total: int, used: int | None) -> str:
    return gib(None if used is None else total - used)
