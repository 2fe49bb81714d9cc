"""What the settings of `gpuopt monitor` must fulfil, whatever was typed."""

from collections.abc import Mapping
from typing import Any

from gpuopt.errors import InputError

__all__ = ["check_monitor"]

_RANGES = {
    "duration": (0.1, 1e8),
    "interval": (0.1, 3600.0),
    "port": (0, 65_535),
    "replay_speed": (0.01, 10_000.0),
}
_VIEWS = ("terminal", "web")
_LEAST_TOKEN = 16


def check_monitor(config: Mapping[str, Any]) -> None:
    """Check the settings of a monitor.

    Args:
        config: Plain values, fitted into their schema.

    Raises:
        InputError: Names the first setting that cannot work.
    """
    if config["view"] not in _VIEWS:
        raise InputError(f"view={config['view']} is not one of {', '.join(_VIEWS)}")
    for key, (low, high) in _RANGES.items():
        value = config[key]
        if value is not None and not low <= value <= high:
            raise InputError(f"{key}={value} is out of range: {low:g} to {high:g}")
    if not config["host"].strip():
        raise InputError("host= is empty: give an address, such as 127.0.0.1")
    if config["token"] is not None and not _is_good(config["token"]):
        raise InputError(
            f"token= must be at least {_LEAST_TOKEN} letters, digits, - or _: "
            "leave it out, and one is made where it is needed"
        )


def _is_good(token: str) -> bool:
    spelled = token.replace("-", "").replace("_", "")
    return len(token) >= _LEAST_TOKEN and spelled.isascii() and spelled.isalnum()
