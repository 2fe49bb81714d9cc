"""What makes a machine slower than it looks, or fail later: each in one line, with the remedy."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from gpuopt.checks.subject import Subject
from gpuopt.hardware import (
    Host,
    InstalledCard,
    Machine,
    TorchBuild,
    least_driver,
)

__all__ = ["Pitfall", "find_pitfalls", "pageable_loading"]

_HEATED = {"software_thermal", "hardware_thermal", "hardware_slowdown", "power_brake"}
_FULL_POWER_RATIO = 0.95
_MUCH_MEMORY_RATIO = 0.05
_PINNED_GAIN = 1.3


@dataclass(frozen=True)
class Pitfall:
    """Something to know before a run.

    Attributes:
        name: Short, such as `throttling`.
        found: What was seen.
        remedy: What to do.
    """

    name: str
    found: str
    remedy: str

    def __str__(self) -> str:
        """Word it as one line."""
        return f"{self.name}: {self.found}; {self.remedy}"

    def as_dict(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


def find_pitfalls(
    subject: Subject, machine: Machine, build: TorchBuild | None = None
) -> list[Pitfall]:
    """Look for what is wrong with a device and the machine around it.

    Args:
        subject: The device.
        machine: That it is in; for a card that is not here only the build is looked at.
        build: The installed PyTorch; None: not looked at.
    """
    found = list(_of_build(subject, machine, build))
    if subject.is_absent:
        return found
    if subject.card is not None:
        looks = (_throttling, _power_cap, _other_processes, _narrow_link, _memory_errors)
        seen = (look(subject, subject.card) for look in looks)
        found += [pitfall for pitfall in seen if pitfall is not None]
        if machine.host.is_wsl:
            found.append(_spilling(subject, subject.card))
    return [*found, *_of_host(subject, machine.host), *_of_visibility(subject, machine)]


def pageable_loading(pinned_gb_per_s: float, pageable_gb_per_s: float) -> Pitfall | None:
    """Judge measured copies to the device.

    Args:
        pinned_gb_per_s: From page-locked memory, in 1e9 bytes per second.
        pageable_gb_per_s: From ordinary memory.
    """
    if pinned_gb_per_s < _PINNED_GAIN * pageable_gb_per_s:
        return None
    return Pitfall(
        "pageable loading",
        f"copies from ordinary memory run at {pageable_gb_per_s:.1f} GB/s, from pinned memory at "
        f"{pinned_gb_per_s:.1f}",
        "keep pin_memory=true, also in mode=lowend_highperf",
    )


def _of_build(subject: Subject, machine: Machine, build: TorchBuild | None) -> Iterator[Pitfall]:
    gpu = subject.gpu
    if build is None or gpu.is_cpu:
        return
    if build.cuda is None and subject.is_absent:
        return  # another machine has another build
    if build.cuda is None:
        yield Pitfall(
            "PyTorch without CUDA",
            f"torch {build.version} runs on the processors alone",
            "install the build for CUDA from pytorch.org",
        )
        return
    if build.drives(gpu.compute_capability) is False:
        yield Pitfall(
            "wheel without the card's architecture",
            f"torch {build.version} holds {', '.join(build.arch_list or ())}, the {gpu.name} is "
            f"sm_{(gpu.compute_capability or '').replace('.', '')}",
            "every kernel would fail: install a build for this card, or take another card",
        )
    driver = machine.driver_cuda
    major = build.cuda_major or 0
    if driver is not None and subject.card is not None and int(driver.partition(".")[0]) < major:
        yield Pitfall(
            "driver too old",
            f"driver {machine.driver} runs CUDA {driver}, torch was built with {build.cuda}",
            f"update the driver to {least_driver(major) or 'a newer one'} or later, or install a "
            "build for an older CUDA",
        )


def _throttling(subject: Subject, card: InstalledCard) -> Pitfall | None:
    reasons = [word for word in card.reading.throttle_reasons or () if word in _HEATED]
    if not reasons:
        return None
    heat = card.reading.temperature_c
    degrees = "" if heat is None else f" at {heat:.0f} degrees"
    return Pitfall(
        "throttling",
        f"{_place(card)} is slowed down by {', '.join(reasons)}{degrees}",
        "see to its cooling and its power supply before timing anything",
    )


def _power_cap(subject: Subject, card: InstalledCard) -> Pitfall | None:
    limit = card.facts.power_limit_w or card.reading.power_limit_w
    usual = card.facts.power_default_w or subject.gpu.tdp_w
    if limit is None or usual is None or limit >= _FULL_POWER_RATIO * usual:
        return None
    return Pitfall(
        "power cap",
        f"{_place(card)} may draw {limit:.0f} W of {usual:.0f} W",
        f"as root: nvidia-smi -i {_smi_name(card)} -pl {usual:.0f}; slower, but cooler as it is",
    )


def _other_processes(subject: Subject, card: InstalledCard) -> Pitfall | None:
    total, used = card.device.total_memory, card.used_bytes
    holders = [p for p in card.reading.processes or () if p.memory_used_bytes]
    taken = sum(p.memory_used_bytes or 0 for p in holders)
    if used is None or max(taken, used) < _MUCH_MEMORY_RATIO * total:
        return None
    names = ", ".join(
        f"{p.name or 'process'} ({p.pid}, {_gib(p.memory_used_bytes or 0)} GiB)" for p in holders
    )
    return Pitfall(
        "other processes",
        f"{_gib(used)} of {_gib(total)} GiB of {_place(card)} are taken"
        + (f": {names}" if names else ", by whom the driver does not tell"),
        "end them, or plan with what is left: "
        f"gpu.memory_limit_mib={max(0, total - used) // 2**20}",
    )


def _narrow_link(subject: Subject, card: InstalledCard) -> Pitfall | None:
    width, most = card.facts.pcie_width, card.facts.pcie_width_limit
    if width is None or most is None or width >= most:
        return None
    return Pitfall(
        "narrow PCIe link",
        f"{_place(card)} has {width} of {most} lanes",
        "move it to a wider slot if loading limits the run",
    )


def _memory_errors(subject: Subject, card: InstalledCard) -> Pitfall | None:
    errors = card.reading.ecc_uncorrected
    if not errors:
        return None
    return Pitfall(
        "memory errors",
        f"{_place(card)} counts {errors} uncorrected",
        "restart the machine, and have the card replaced if they come again",
    )


def _spilling(subject: Subject, card: InstalledCard) -> Pitfall:
    limit_mib = int(0.92 * card.device.memory_mib)
    return Pitfall(
        "WSL spill",
        "Windows moves a card's memory to the host instead of failing, ten times slower",
        f"give gpu.memory_limit_mib={limit_mib}, which fails and recovers instead",
    )


def _of_host(subject: Subject, host: Host) -> Iterator[Pitfall]:
    wanted = subject.gpu.num_workers or 0
    if host.cpus < host.machine_cpus and (host.cpus < wanted or subject.gpu.is_cpu):
        feeds = f", {wanted} loaders feed this card" if not subject.gpu.is_cpu else ""
        yield Pitfall(
            "few CPUs",
            f"this process may use {host.cpus} of {host.machine_cpus} CPUs{feeds}",
            "raise the container's limit (docker run --cpus, cpu.max, --cpus-per-task)",
        )
    elif not subject.gpu.is_cpu and host.cpus < wanted:
        yield Pitfall(
            "few CPUs",
            f"{host.cpus} CPUs, {wanted} loaders feed this card",
            "keep data.cache=auto, which decodes images only once",
        )
    if host.full_shared_memory is not None:
        yield Pitfall(
            "little shared memory",
            host.full_shared_memory,
            "start the container with --shm-size=8g or --ipc=host",
        )


def _of_visibility(subject: Subject, machine: Machine) -> Iterator[Pitfall]:
    host, shown = machine.host, len(machine.cards)
    if machine.driver is None and machine.cards_of_driver is None and host.cards_on_bus > shown:
        yield Pitfall(
            "no driver",
            f"{host.cards_on_bus} NVIDIA card(s) are plugged in and no driver has them",
            "install NVIDIA's driver, or start the container with --gpus all",
        )
    elif machine.cards_of_driver is not None and machine.cards_of_driver > shown:
        why = "" if host.visible_devices is None else f" (={host.visible_devices})"
        yield Pitfall(
            "hidden cards",
            f"CUDA shows {shown} of {machine.cards_of_driver} cards to this process",
            f"see CUDA_VISIBLE_DEVICES{why}",
        )


def _place(card: InstalledCard) -> str:
    return f"device {card.device.index}"


def _smi_name(card: InstalledCard) -> str:
    """Name a card to nvidia-smi, whose numbers are not CUDA's."""
    return card.reading.uuid or card.facts.bus_id or str(card.device.index)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"
