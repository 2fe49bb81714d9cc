"""Which device a report is about: one that is here, or one that is named."""

from dataclasses import dataclass, fields

from gpuopt.checks.request import CheckRequest
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, InstalledCard, recognise, select_gpu

__all__ = ["Subject", "present_subjects", "subjects"]


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


def _present(request: CheckRequest, card: InstalledCard) -> Subject:
    # Not `card()`, which would take a limit for the memory of a card without a name.
    asked = Gpu(**{field.name: getattr(request.gpu, field.name) for field in fields(Gpu)})
    gpu, choice = select_gpu(asked, card.device, request.catalogue)
    return Subject(str(choice.value), gpu, card, choice.reason, is_named=False)
