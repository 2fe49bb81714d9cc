"""Which cards a report is about."""

from dataclasses import replace

from gpuopt.checks.request import CheckRequest
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu

__all__ = ["asked_cards"]


def asked_cards(request: CheckRequest) -> dict[str, Gpu]:
    """Return the cards in question by what `gpu=` takes, least memory first.

    Raises:
        InputError: When the CPU is asked for.
    """
    asked = request.gpu
    if asked.is_cpu:
        raise InputError("gpu=cpu has no memory of its own: leave it out, or name a card")
    if asked.is_nameless or asked.name != "auto":
        card = asked.card()
        stems = [stem for stem, gpu in request.catalogue.items() if gpu.name == card.name]
        return {stems[0] if stems else card.name: card}
    cards = {
        stem: replace(asked.card().filled_from(gpu), seed=gpu.seed)
        for stem, gpu in request.catalogue.items()
        if gpu.memory_mib is not None
    }
    return dict(sorted(cards.items(), key=lambda item: (item[1].memory_mib or 0, item[0])))
