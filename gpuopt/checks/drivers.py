"""Whether PyTorch, driver and engines fit the card: `gpuopt check report=drivers`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from gpuopt.checks.lines import NOT_AVAILABLE, facts_table, or_na, pitfall_table
from gpuopt.checks.pitfall import Pitfall, find_pitfalls
from gpuopt.checks.request import CheckRequest
from gpuopt.checks.subject import Subject, subjects
from gpuopt.engine.providers import PROVIDERS, choose_provider
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, Machine, TorchBuild, least_driver

__all__ = ["DriversReport", "Fact", "capability_pair", "engine_facts", "report"]

_TENSORRT_FROM = (7, 5)
_TRITON_FROM = (7, 0)


@dataclass(frozen=True)
class Fact:
    """One thing that is installed, and whether it fits.

    Attributes:
        name: Of it.
        found: Its version, or `n/a`.
        verdict: Whether it fits the card, and what to do where it does not.
    """

    name: str
    found: str
    verdict: str = ""


@dataclass(frozen=True)
class DriversReport:
    """The answer.

    Attributes:
        build: The installed PyTorch.
        devices: Facts by device.
        pitfalls: By device.
    """

    build: TorchBuild
    devices: Sequence[tuple[Subject, Sequence[Fact]]]
    pitfalls: Sequence[Pitfall]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "build": self.build.as_dict(),
            "devices": [
                {
                    "gpu": subject.preset,
                    "facts": [
                        {"name": fact.name, "found": fact.found, "verdict": fact.verdict}
                        for fact in facts
                    ],
                }
                for subject, facts in self.devices
            ],
            "pitfalls": [pitfall.as_dict() for pitfall in self.pitfalls],
        }

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        parts: list[RenderableType] = []
        for subject, facts in self.devices:
            name = "the processors" if subject.gpu.is_cpu else subject.gpu.name
            rows = [(fact.name, fact.found, fact.verdict) for fact in facts]
            title = f"What is installed, for {name}"
            parts.append(facts_table(title, rows, ("", "found", "fits")))
        return Group(*parts, pitfall_table(self.pitfalls))


def report(request: CheckRequest) -> DriversReport:
    """Compare what is installed with the devices in question.

    Raises:
        InputError: When overrides do not fit the card that was found.
    """
    machine, build = request.look(), request.look_at_build()
    found = {subject.gpu.name: subject for subject in subjects(request)}
    pitfalls = [
        pitfall for subject in found.values() for pitfall in find_pitfalls(subject, machine, build)
    ]
    return DriversReport(
        build,
        [
            (subject, [*_base_facts(machine, build, subject), *engine_facts(build, subject.gpu)])
            for subject in found.values()
        ],
        list(dict.fromkeys(pitfalls)),
    )


def capability_pair(gpu: Gpu) -> tuple[int, int] | None:
    """Return the compute capability as two numbers; None for the processors or one unknown."""
    if gpu.compute_capability is None:
        return None
    major, _, minor = gpu.compute_capability.partition(".")
    return int(major), int(minor)


def engine_facts(build: TorchBuild, gpu: Gpu) -> list[Fact]:
    """Say which engines of prediction can run on a device with what is installed."""
    pair, packages = capability_pair(gpu), build.packages
    triton = packages.get("triton")
    facts = [
        Fact("Triton (compile)", or_na(triton), _triton(gpu, pair, triton)),
        Fact(
            "torch-tensorrt", or_na(packages.get("torch-tensorrt")), _tensorrt(gpu, pair, packages)
        ),
    ]
    runtime = packages.get("onnxruntime-gpu") or packages.get("onnxruntime")
    facts.append(Fact("ONNX Runtime", or_na(runtime), _onnx(build, gpu, pair)))
    return facts


def _base_facts(machine: Machine, build: TorchBuild, subject: Subject) -> list[Fact]:
    gpu = subject.gpu
    card = or_na(gpu.compute_capability)
    arch = ", ".join(build.arch_list or ()) or NOT_AVAILABLE
    drives = build.drives(gpu.compute_capability)
    verdicts = {True: f"holds code for SM {card}", False: f"holds none for SM {card}", None: ""}
    bf16 = {True: "in hardware", False: "emulated only: precision=auto avoids it", None: ""}
    facts = [Fact("driver", or_na(machine.driver), _driver_verdict(machine, build, subject))]
    facts += [
        Fact("PyTorch", or_na(build.version), f"CUDA {or_na(build.cuda)}"),
        Fact("architectures", arch, "" if gpu.is_cpu else verdicts[drives]),
        Fact("cuDNN", or_na(build.cudnn)),
        Fact("NCCL", or_na(build.nccl), "" if gpu.is_cpu else "for several cards"),
    ]
    if not gpu.is_cpu:
        facts.append(Fact("bf16", or_na(gpu.bf16_native), bf16[gpu.bf16_native]))
    return facts


def _driver_verdict(machine: Machine, build: TorchBuild, subject: Subject) -> str:
    if subject.gpu.is_cpu:
        return "not needed"
    if build.cuda_major is None:
        return "PyTorch here has no CUDA"
    least = least_driver(build.cuda_major)
    needs = "" if least is None else f"CUDA {build.cuda} needs {least} or later"
    if subject.card is None or machine.driver_cuda is None:
        return needs
    runs = f"runs CUDA up to {machine.driver_cuda}"
    is_enough = int(machine.driver_cuda.partition(".")[0]) >= build.cuda_major
    return f"{runs}, enough" if is_enough else f"{runs}; {needs}"


def _triton(gpu: Gpu, pair: tuple[int, int] | None, version: str | None) -> str:
    if gpu.is_cpu:
        return "not needed: a C++ compiler compiles for the CPU"
    if pair is not None and pair < _TRITON_FROM:
        return f"not for SM {gpu.compute_capability}: compile.mode=off"
    return "compile.mode works" if version else "pip install triton for compile.mode"


def _tensorrt(gpu: Gpu, pair: tuple[int, int] | None, packages: Any) -> str:
    if gpu.is_cpu:
        return "for NVIDIA cards"
    if pair is not None and pair < _TENSORRT_FROM:
        return f"not for SM {gpu.compute_capability}"
    if packages.get("torch-tensorrt"):
        return "engine=tensorrt works"
    return "pip install 'gpuopt[tensorrt]' for engine=tensorrt"


def _onnx(build: TorchBuild, gpu: Gpu, pair: tuple[int, int] | None) -> str:
    if build.onnx_providers is None:
        extra = "onnx" if gpu.is_cpu else "onnx-gpu"
        return f"pip install 'gpuopt[{extra}]' for engine=onnx"
    capability = None if gpu.is_cpu else pair or (8, 0)
    known = [word for word, name in PROVIDERS.items() if name in build.onnx_providers]
    held = f"holds {', '.join(known)}"
    try:
        choice = choose_provider(build.onnx_providers, capability)
    except InputError:
        return f"{held}: none for a card; pip install 'gpuopt[onnx-gpu]'"
    return f"{held}; provider=auto takes {choice.value}"
