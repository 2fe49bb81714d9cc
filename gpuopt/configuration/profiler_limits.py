"""What cannot be meant together in the settings of `gpuopt profiler`."""

from collections.abc import Mapping
from typing import Any

from gpuopt.errors import InputError

__all__ = ["check_profiler"]

_ACTIVITIES = ("cpu", "cuda")


def check_profiler(config: Mapping[str, Any]) -> None:
    """Refuse what the profiler cannot do; raises `InputError` with the key."""
    names = config["activities"]
    if not names or len(set(names)) < len(names) or not set(names) <= set(_ACTIVITIES):
        raise InputError(f"activities={names}: give [cpu], [cuda] or [cpu,cuda]")
    if config["warmup"] < 1:
        raise InputError("warmup=0: the profiler's own start would be recorded: give at least 1")
    devices = config["trainer"]["devices"]
    if devices > 1:
        raise InputError(
            f"trainer.devices={devices}: one device is profiled at a time: leave it out"
        )
    for key in ("run", "resume"):
        if config[key]:
            raise InputError(f"{key} is for gpuopt train: profiles go to a folder in output=...")
    if config["nsys"] is True and config["record_shapes"]:
        raise InputError("record_shapes=true: nsys records no shapes: leave it out, or nsys=true")
