"""Everything that an engine depends on, so that a stale one is never used.

Engines are not portable: kernels are chosen for a card, its driver and the libraries at build time,
and an engine for other weights answers without a word.
"""

import functools
import hashlib
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gpuopt.engine.protocol import Backend, EngineRequest, TrainedNetwork
from gpuopt.hardware import processor_flags

__all__ = [
    "device_key",
    "differing",
    "engine_key",
    "key_of",
    "network_key",
    "own_versions",
    "processor_key",
    "shapes_digest",
    "weights_digest",
]

_PACKAGES = ("gpuopt", "timm", "torch")


def engine_key(
    backend: Backend,
    request: EngineRequest,
    network: TrainedNetwork,
    *,
    weights: Callable[[TrainedNetwork], str] | None = None,
) -> dict[str, str]:
    """Word everything that an engine depends on.

    Args:
        backend: Makes the file.
        request: What is asked for.
        network: What it is made from.
        weights: Digests what counts of them; None takes `weights_digest`.

    Returns:
        Words by what they say, equal exactly when an engine can be used again.
    """
    return key_of(backend, request, network_key(network, weights=weights))


def network_key(
    network: TrainedNetwork, *, weights: Callable[[TrainedNetwork], str] | None = None
) -> dict[str, str]:
    """Word what an engine depends on of its network; see `engine_key`."""
    return {
        "network": network.name,
        "weights": (weights or weights_digest)(network),
        "graph": _digest(str(network.backbone).encode()),
        "channels_last": str(network.uses_channels_last),
    }


def key_of(backend: Backend, request: EngineRequest, words: Mapping[str, str]) -> dict[str, str]:
    """Word everything that an engine depends on, from what `network_key` says of its network."""
    asked = request.as_dict()
    del asked["device"]  # an index; what the device is counts
    return {
        "engine": backend.name,
        **words,
        **{name: str(value) for name, value in asked.items()},
        "float32_matmul": torch.get_float32_matmul_precision(),
        **device_key(request.device),
        **own_versions(),
        **backend.versions(request.device),
    }


def device_key(device: torch.device) -> dict[str, str]:
    """Name a device, its memory and its driver."""
    if device.type != "cuda":
        capability = torch.backends.cpu.get_cpu_capability()
        return {"device": platform.machine(), "capability": capability, **processor_key()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": str(properties.name),
        "capability": f"{properties.major}.{properties.minor}",
        "memory_mib": str(properties.total_memory // 2**20),
        "driver": _driver(),
    }


def processor_key() -> dict[str, str]:
    """Digest the features of the CPU: compilers use all of them, and another CPU may lack one."""
    return {"processor": _digest(" ".join(processor_flags()).encode())}


def weights_digest(network: TrainedNetwork) -> str:
    """Digest weights, buffers and normalisation; one flipped bit is another network."""
    if network.digest is not None:
        return network.digest
    digest = hashlib.sha256()
    for name, value in sorted(network.backbone.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(memoryview(raw.numpy()))
    digest.update(repr((network.mean, network.std)).encode())
    return digest.hexdigest()


def shapes_digest(network: TrainedNetwork) -> str:
    """Digest names, types and shapes of weights and buffers, which are the same in all folds."""
    lines = [
        f"{name} {value.dtype} {list(value.shape)}"
        for name, value in sorted(network.backbone.state_dict().items())
    ]
    return _digest("\n".join(lines).encode())


def differing(wanted: Mapping[str, str], present: Mapping[str, Any]) -> list[str]:
    """Name what differs between two keys, such as `driver was 570.1, is 580.2`.

    Args:
        wanted: What would be built now.
        present: What a file was built for.
    """
    changes = []
    for name in sorted(wanted.keys() | present.keys()):
        new, old = wanted.get(name, "nothing"), str(present.get(name, "nothing"))
        if new != old:
            changes.append(f"{name} was {old[:40]}, is {new[:40]}")
    return changes


@functools.cache
def own_versions() -> dict[str, str]:
    """Name what every engine is made with, and digest the code that makes it."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # gpuopt itself, on a path without being installed
            found[package] = "unknown"
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return {**found, "code": _digest(b"".join(path.read_bytes() for path in sources))}


def _driver() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
        found = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return "unknown"
    return found.decode() if isinstance(found, bytes) else str(found)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
