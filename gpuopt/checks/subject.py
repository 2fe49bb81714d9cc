"""Which device a report is about: one that is here, or one that is named."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from gpuopt.checks.request import CheckRequest
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, InstalledCard, TorchBuild, recognise, select_gpu
from gpuopt.hardware.gpu import capability_of

__all__ = ["Subject", "build_for", "present_subjects", "subjects"]

_LEAST_OF_BUILDS = (7, 5)  # builds for CUDA 13 hold no code for older cards


@dataclass(frozen=True)
class Subject:
    """A device.

    Attributes:
        preset: What `gpu=` takes, or a name.
        gpu: Facts and policy.
        card: Where it is in this machine; None for one that is not, and for the processors.
        reason: Why it is this one.
        is_named: Whether it was asked for.
    """

    preset: str
    gpu: Gpu
    card: InstalledCard | None
    reason: str
    is_named: bool

    @property
    def is_absent(self) -> bool:
        """Whether it is a card that is not in this machine."""
        return self.card is None and not self.gpu.is_cpu


def subjects(request: CheckRequest) -> list[Subject]:
    """List the devices in question: the one that is named, else those that are here.

    Args:
        request: Its `gpu` decides; `auto` on a machine without a card means the processors.

    Raises:
        InputError: When overrides do not fit the card that was found.
    """
    asked, catalogue = request.gpu, request.catalogue
    if asked.is_cpu:
        return [Subject("cpu", asked.card(), None, "asked for", is_named=True)]
    cards = request.look().cards
    is_auto = asked.name == "auto" and asked.memory_gib is None and asked.memory_mib is None
    if is_auto and cards:
        return [_present(request, card) for card in cards]
    if is_auto and not asked.is_nameless:
        reason = "no CUDA device was found"
        return [Subject("cpu", catalogue["cpu"], None, reason, is_named=False)]
    gpu = asked.card()
    stems = [stem for stem, known in catalogue.items() if known.name == gpu.name]
    stem = stems[0] if stems else gpu.name
    for card in cards:
        if recognise(card.device.name, card.device.memory_mib, {stem: gpu}) is not None:
            return [Subject(stem, gpu, card, "asked for, and here", is_named=True)]
    return [Subject(stem, gpu, None, "not in this machine", is_named=True)]


def present_subjects(request: CheckRequest) -> list[Subject]:
    """List the devices in question, which have to be in this machine.

    Raises:
        InputError: For a card that is not here.
    """
    found = subjects(request)
    for subject in found:
        if subject.is_absent:
            raise InputError(
                f"report=benchmark measures what is here, and gpu={subject.preset} is not: leave "
                "gpu= out, or ask for report=recommend, which predicts"
            )
    return found


def build_for(request: CheckRequest, found: Sequence[Subject]) -> TorchBuild:
    """Look at the installed PyTorch as closely as the devices need, since all of it takes seconds.

    Args:
        request: What looks.
        found: The devices. Which cards the build holds code for matters for one that is here, and
            for one that is older than what usual builds are made for.
    """
    is_needed = any(subject.card is not None or _is_old(subject.gpu) for subject in found)
    return request.look_at_build() if is_needed else request.glance_at_build()


def _is_old(gpu: Gpu) -> bool:
    capability = gpu.compute_capability
    return capability is not None and capability_of(capability) < _LEAST_OF_BUILDS


def _present(request: CheckRequest, card: InstalledCard) -> Subject:
    # Not `card()`, which would take a limit for the memory of a card without a name.
    asked = Gpu(**{field.name: getattr(request.gpu, field.name) for field in fields(Gpu)})
    gpu, choice = select_gpu(asked, card.device, request.catalogue)
    return Subject(str(choice.value), gpu, card, choice.reason, is_named=False)
