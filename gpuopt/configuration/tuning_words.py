"""Refuse words about tuning that cannot be meant."""

from collections.abc import Mapping
from typing import Any

from gpuopt.errors import InputError

__all__ = ["TUNE_KEYS", "check_tuning"]

TUNE_KEYS = ("format", "goal", "least_speed_ratio", "probe_s", "save_config", "target")
"""What `gpuopt tune` takes beside the settings of a training."""

_TARGETS = ("loader", "compile", "all")


def check_tuning(config: Mapping[str, Any]) -> None:
    """Check the settings that only `gpuopt tune` has, with those of the training.

    Args:
        config: Composed settings of it.

    Raises:
        InputError: Names the setting.
    """
    target, devices = config["target"], config["trainer"]["devices"]
    if target not in _TARGETS:
        raise InputError(f"target={target} is not one of {', '.join(_TARGETS)}")
    if devices > 1:
        raise InputError(
            f"trainer.devices={devices}: one device is tuned; leave it out here, and add it to "
            "the training"
        )
    if config["resume"] or config["run"] is not None:
        raise InputError("run and resume are for gpuopt train: tune a training before it starts")
