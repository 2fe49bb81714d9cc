"""Whether the installed PyTorch holds machine code for a card."""

import re
from collections.abc import Sequence

from gpuopt.errors import InputError
from gpuopt.hardware.gpu import capability_of

__all__ = ["refuse_unsupported", "supported_by_build"]

_ENTRY = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def supported_by_build(compute_capability: str, arch_list: Sequence[str]) -> bool:
    """Tell whether a build can drive a card.

    Machine code (`sm_86`) runs on the same major version from its minor version on, so code
    for 8.0 serves an 8.6 card. PTX (`compute_90`) is compiled on any later card. The suffix
    `a` ties both to exactly one version, `f` ties both to one major version.

    Args:
        compute_capability: Such as "8.6".
        arch_list: As `torch.cuda.get_arch_list` returns it; empty for a build without CUDA.

    Raises:
        InputError: The compute capability is malformed.
    """
    card = capability_of(compute_capability)
    return any(_runs(entry, card) for entry in arch_list)


def refuse_unsupported(
    name: str, compute_capability: str, arch_list: Sequence[str] | None = None
) -> None:
    """Refuse a card that the installed PyTorch cannot drive, before a kernel fails.

    Args:
        name: The card, for the message.
        compute_capability: Such as "7.0".
        arch_list: What the build holds; asked from torch when None.

    Raises:
        InputError: No machine code in the build runs on the card.
    """
    if arch_list is None:
        import torch

        arch_list = torch.cuda.get_arch_list()
    if supported_by_build(compute_capability, arch_list):
        return
    held = ", ".join(arch_list) or "no CUDA at all"
    raise InputError(
        f"gpu: {name} (SM {compute_capability}) cannot be driven by the installed PyTorch, which "
        f"holds {held}; use another card or gpu=cpu, or install a PyTorch build for this one"
    )


def _runs(entry: str, card: tuple[int, int]) -> bool:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        return False
    kind, suffix = match[1], match[4]
    built_for = (int(match[2]), int(match[3]))
    if suffix == "a":
        return card == built_for
    if kind == "sm" or suffix == "f":
        return card[0] == built_for[0] and card[1] >= built_for[1]
    return card >= built_for
