"""What a benchmark of engines leaves in a run, and which engine is the fastest that was proved."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gpuopt.engine.backends import ENGINE_NAMES
from gpuopt.engine.cache_key import device_key
from gpuopt.engine.race import Scope, Timing
from gpuopt.engine.verification import Verification
from gpuopt.engine.verify import library_versions
from gpuopt.storage import write_json

__all__ = [
    "ENGINES",
    "EngineRecord",
    "FastEngine",
    "Surroundings",
    "fastest_verified",
    "surroundings_of",
    "write_record",
]

ENGINES = "engines.json"
_SCHEMA = 1
_PRECISIONS = ("fp32", "fp16", "bf16")
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Surroundings:
    """What has to be the same for a record to count.

    Attributes:
        weights: Digest of the network's weights.
        device: What the device is: name, memory, driver.
        versions: Of the libraries.
        image_size: Side of the images in pixels.
    """

    weights: str
    device: Mapping[str, str]
    versions: Mapping[str, str]
    image_size: int


@dataclass(frozen=True)
class EngineRecord:
    """One engine in a benchmark.

    Attributes:
        engine: Backend.
        precision: Of the bulk of its layers.
        fp32_layers: Prefixes of modules that had to stay in fp32.
        build_s: Seconds until it answered for the first time, from nothing.
        memory_bytes: What the device, or on a CPU the process, holds more with it; None where
            that was not measured.
        is_verified: Whether it may stand in for the model.
        reason: The proof, or why there is none, in one line.
        verification: The proof; None when it could not be built.
        timings: Empty when it could not be built.
        faults: Where it could not be timed, and why.
    """

    engine: str
    precision: str
    fp32_layers: tuple[str, ...]
    build_s: float | None
    memory_bytes: int | None
    is_verified: bool
    reason: str
    verification: Verification | None
    timings: tuple[Timing, ...]
    faults: tuple[str, ...] = ()

    def timing(self, scope: Scope, batch_size: int) -> Timing | None:
        """Return the timing of a scope and batch size."""
        wanted = (scope, batch_size)
        return next((t for t in self.timings if (t.scope, t.batch_size) == wanted), None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; of the proof the figures, without the names of all images."""
        return {
            **asdict(self),
            "fp32_layers": list(self.fp32_layers),
            "verification": _figures(self.verification),
        }


@dataclass(frozen=True)
class FastEngine:
    """The fastest engine that was proved.

    Attributes:
        name: Backend.
        precision: To ask for.
        fp32_layers: To ask for.
        optimal_batch_size: That it was proved and timed with.
        max_batch_size: That it was proved with.
        samples_per_second: End to end at the optimal batch size.
        least_images: That were asked for to prove it.
    """

    name: str
    precision: str
    fp32_layers: tuple[str, ...]
    optimal_batch_size: int
    max_batch_size: int
    samples_per_second: float
    least_images: int


def surroundings_of(weights: str, device: torch.device, image_size: int) -> Surroundings:
    """Say what engines on a device depend on, here and now.

    Args:
        weights: Of the network, as `weights_digest` computes it.
        device: Where they run.
        image_size: In pixels.
    """
    return Surroundings(weights, device_key(device), library_versions(), image_size)


def write_record(
    run: Path,
    surroundings: Surroundings,
    records: Sequence[EngineRecord],
    *,
    optimal_batch_size: int,
    max_batch_size: int,
    extra: Mapping[str, Any],
) -> Path:
    """Write `engines.json` into a run folder; a record that is there is replaced.

    Args:
        run: The folder.
        surroundings: What it holds for.
        records: All engines.
        optimal_batch_size: That engines were tuned for.
        max_batch_size: The most images of a call.
        extra: What else helps to judge the figures.

    Raises:
        OSError: When the folder cannot be written.
    """
    content = {
        "schema": _SCHEMA,
        "surroundings": asdict(surroundings),
        "optimal_batch_size": optimal_batch_size,
        "max_batch_size": max_batch_size,
        **extra,
        "engines": [record.as_dict() for record in records],
    }
    write_json(run / ENGINES, content)
    return run / ENGINES


def fastest_verified(run: Path, surroundings: Surroundings) -> FastEngine | None:
    """Read which engine to use.

    Args:
        run: The folder of the run.
        surroundings: What is there now; a record of another GPU, of other weights or of other
            versions does not count.

    Returns:
        None without a record that counts, or when no engine in it was proved.
    """
    path = run / ENGINES
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        content = json.loads(path.read_text("utf-8"))
        if content["schema"] != _SCHEMA or content["surroundings"] != asdict(surroundings):
            return None
        verified = [entry for entry in content["engines"] if entry["is_verified"] is True]
        found = [_candidate(entry, content) for entry in verified]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    timed = [engine for engine in found if engine is not None]
    return max(timed, key=lambda engine: engine.samples_per_second, default=None)


def _candidate(entry: Mapping[str, Any], content: Mapping[str, Any]) -> FastEngine | None:
    """Read one engine; None for one that could not be timed at the optimal batch size."""
    if entry["engine"] not in ENGINE_NAMES or entry["precision"] not in _PRECISIONS:
        raise ValueError("a record of something else")
    size = int(content["optimal_batch_size"])
    wanted = ("end_to_end", size)
    found = [t for t in entry["timings"] if (t["scope"], t["batch_size"]) == wanted]
    if not found:
        return None
    (timing,) = found
    return FastEngine(
        str(entry["engine"]),
        str(entry["precision"]),
        tuple(map(str, entry["fp32_layers"])),
        size,
        int(content["max_batch_size"]),
        float(timing["samples_per_second"]),
        int(entry["verification"]["bounds"]["least_images"]),
    )


def _figures(verification: Verification | None) -> dict[str, Any] | None:
    if verification is None:
        return None
    content = verification.as_dict()
    del content["images"]
    return {**content, "image_count": len(verification.images)}
