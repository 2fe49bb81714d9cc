"""Which card a run is planned for: the preset that was asked for against the card found."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuopt.choice import Choice
from gpuopt.hardware.catalogue import recognise
from gpuopt.hardware.gpu import Gpu
from gpuopt.hardware.profile import profile_from_device

__all__ = ["select_gpu"]


def select_gpu(
    preset: Gpu, device_properties: Any | None, catalogue: Mapping[str, Gpu]
) -> tuple[Gpu, Choice]:
    """Settle the facts and the policy that a run uses.

    Args:
        preset: What the user asked for, with overrides; fields of `auto` left None are found.
        device_properties: Of the CUDA device that will be used, as torch reports them, or
            None where there is none.
        catalogue: From `load_catalogue`; must hold `cpu`.

    Returns:
        The card to plan for, and the line to print. Without a CUDA device this is the preset
        `cpu`. A preset used on another card keeps its policy and the smaller of the two
        memories; the other facts and the precision are those of the card that is there.

    Raises:
        InputError: Overrides do not fit the card that was found, such as a memory limit
            above its memory.
    """
    if preset.is_cpu:
        return preset, Choice("gpu", "cpu", "given", "asked for")
    if device_properties is None:
        return catalogue["cpu"], Choice("gpu", "cpu", "measured", _no_cuda(preset))
    found = profile_from_device(device_properties)
    stem = recognise(str(device_properties.name), found.memory_mib or 0, catalogue)
    card = catalogue[stem] if stem else found
    where = f"{device_properties.name} with {found.memory_mib} MiB"
    if preset.name == "auto":
        chosen = preset.filled_from(card)
        reason = where if stem else f"{where} is in no preset, so its properties were measured"
        choice = Choice("gpu", stem or found.name, "table" if stem else "measured", reason)
    elif preset.name == card.name:
        chosen, choice = preset, Choice("gpu", stem, "given", where)
    else:
        chosen = _on_other_card(preset, card)
        reason = f"the preset {preset.name} is used on {where}, with the smaller of the memories"
        choice = Choice("gpu", preset.name, "given", reason)
    chosen.check()
    return chosen, choice


def _no_cuda(preset: Gpu) -> str:
    reason = "no CUDA device was found"
    if preset.name == "auto":
        return reason
    return f"{reason}, so the preset {preset.name} has no effect on memory or precision"


def _on_other_card(preset: Gpu, card: Gpu) -> Gpu:
    memories = [gpu.memory_mib for gpu in (preset, card) if gpu.memory_mib is not None]
    return replace(
        card,
        name=preset.name,
        memory_mib=min(memories, default=None),
        num_workers=preset.num_workers,
        image_size=preset.image_size,
        headroom_ratio=preset.headroom_ratio,
        memory_limit_mib=preset.memory_limit_mib,
        seed=preset.seed,
    )
