"""Refuse words about a diagnosis that cannot be meant."""

from collections.abc import Mapping
from typing import Any

from gpuopt.errors import InputError, nearest

__all__ = ["check_diagnosis"]

_TARGETS = ("bottleneck", "leak", "throttle", "cleanup")


def check_diagnosis(config: Mapping[str, Any]) -> None:
    """Check the settings that only `gpuopt diagnose` has.

    Args:
        config: Composed settings of it.

    Raises:
        InputError: Names the setting.
    """
    target = config["target"]
    if target not in _TARGETS:
        raise InputError(f"target={target} is no diagnosis{nearest(str(target), _TARGETS)}")
    if config["load"] != "none" and target != "throttle":
        raise InputError(f"load={config['load']} is for target=throttle: leave it out")
    if config["resume"] or config["run"] is not None:
        raise InputError("diagnose looks at a training of its own: leave run= and resume= out")
    if config["trainer"]["devices"] > 1:
        raise InputError("diagnose looks at one device: give trainer.devices=1")
