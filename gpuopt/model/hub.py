"""The hub of pretrained weights, asked only where its name resolves.

Its client repeats a request that cannot succeed for most of a minute, also where all that it would
fetch lies in its cache, as on the nodes of a cluster without a way out.
"""

import contextlib
import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from huggingface_hub import constants

__all__ = ["hub_or_cache"]

_HTTPS_PORT = 443


@contextlib.contextmanager
def hub_or_cache() -> Iterator[None]:
    """Take weights from the client's cache alone while the hub cannot be reached."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _may_be_reached()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _may_be_reached() -> bool:
    """Say whether the hub's name resolves, or a proxy resolves it in this machine's place."""
    proxies = urllib.request.getproxies()
    if "https" in proxies or "all" in proxies:
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, _HTTPS_PORT)
    except OSError:
        return False
    return True
