"""The settings of `gpuopt monitor`: their names, and what they must fulfil."""

from collections.abc import Mapping
from typing import Any

from gpuopt.errors import InputError

__all__ = ["MONITOR_KEYS", "MONITOR_SPELLINGS", "check_monitor"]

MONITOR_KEYS = [
    "allowed_hosts",
    "debug",
    "duration",
    "gpu_ids",
    "host",
    "interval",
    "log",
    "port",
    "prometheus",
    "replay",
    "replay_speed",
    "run",
    "token",
    "view",
]
# What the seed guide calls these.
MONITOR_SPELLINGS = {
    "dashboard": "view=web",
    "duration": "duration=N",
    "export_prometheus": "prometheus=true",
    "interval": "interval=N",
    "log_file": "log=FILE",
    "port": "port=N",
    "update_interval": "interval=N",
}

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
