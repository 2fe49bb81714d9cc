"""What `gpuopt monitor` is told, beyond the ranges of its settings, and what follows from it."""

import importlib.util
import secrets
import socket
from collections.abc import Collection

from gpuopt.errors import InputError
from gpuopt.schema import MonitorConfig
from gpuopt.telemetry.address import is_loopback

__all__ = ["address", "needed_token", "refuse_contradictions", "require_packages", "serves"]

_OF_THE_SERVER = ("host", "port", "token", "allowed_hosts")
_OF_THE_MACHINE = ("interval", "log", "run")
_WEB_PACKAGES = ("starlette", "uvicorn")


def serves(config: MonitorConfig) -> bool:
    """Tell whether the monitor answers at an address."""
    return config.view == "web" or config.prometheus


def refuse_contradictions(config: MonitorConfig, typed: Collection[str]) -> None:
    """Refuse settings of which one would be ignored.

    Args:
        config: The checked settings.
        typed: Keys that the user gave on the command line.

    Raises:
        InputError: Names them.
    """
    if config.replay is not None:
        for key in _OF_THE_MACHINE:
            if key in typed:
                raise InputError(f"replay= shows what was recorded, and {key}= is of now: drop one")
    elif "replay_speed" in typed:
        raise InputError("replay_speed= is for replay=FILE: name the log to show")
    for key in _OF_THE_SERVER:
        if key in typed and not serves(config):
            raise InputError(f"{key}= is for view=web or prometheus=true: add one of them")


def require_packages(config: MonitorConfig) -> None:
    """Refuse what needs a package that is not installed.

    Raises:
        InputError: Names the extra that brings it.
    """
    needed = [*_WEB_PACKAGES] if serves(config) else []
    needed += ["prometheus_client"] if config.prometheus else []
    for name in needed:
        if importlib.util.find_spec(name) is None:
            word = "view=web" if config.view == "web" else "prometheus=true"
            raise InputError(f"{word} needs the package {name}: pip install 'gpuopt[monitor]'")


def address(config: MonitorConfig, port: int, token: str | None) -> str:
    """Word where the monitor answers, with a token that was made for it.

    Args:
        config: The checked settings.
        port: That it listens at.
        token: That is needed there.
    """
    host = socket.gethostname() if config.host in ("0.0.0.0", "::") else config.host
    host = f"[{host}]" if ":" in host else host
    path = "/" if config.view == "web" else "/metrics"
    if token is None:
        return f"http://{host}:{port}{path}"
    known = token if token != config.token else "YOUR_TOKEN"
    if config.view == "web":
        return f"http://{host}:{port}/?token={known}"
    return f"http://{host}:{port}{path}, with the header Authorization: Bearer {known}"


def needed_token(config: MonitorConfig) -> str | None:
    """Return the token that was given, or a new one where others can reach the address."""
    if config.token is not None or is_loopback(config.host):
        return config.token
    return secrets.token_urlsafe(24)
