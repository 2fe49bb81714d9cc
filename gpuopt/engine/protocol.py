"""What every inference engine is, and what one is asked to be.

An engine takes uint8 images and returns float32 logits; normalisation and precision lie inside.
A backend is one way to make engines. Most write a file that outlives the process; the others wrap
the network where it is.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gpuopt.errors import FaultError

__all__ = [
    "Backend",
    "CannotShare",
    "Engine",
    "EngineRequest",
    "LiveBackend",
    "SharingBackend",
    "TrainedNetwork",
]


class CannotShare(FaultError):
    """Code that was built for other weights does not serve these."""


class Engine(Protocol):
    """Something that classifies images."""

    @property
    def name(self) -> str:
        """The backend, as `engine=` takes it."""

    @property
    def device(self) -> torch.device:
        """Where images are expected and logits are returned."""

    @property
    def precision(self) -> str:
        """`fp32`, `fp16` or `bf16`: what the bulk of the layers really computes in."""

    @property
    def max_batch_size(self) -> int:
        """Most images per call."""

    def __call__(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: uint8 [n, 3, s, s] on `device`, 1 <= n <= `max_batch_size`.

        Returns:
            Logits, float32 [n, classes] on `device`.
        """


@dataclass(frozen=True)
class EngineRequest:
    """What an engine is asked to be.

    Attributes:
        image_size: Side of the square images in pixels.
        num_classes: Width of the logits.
        precision: `fp32`, `fp16` or `bf16`.
        optimal_batch_size: Images per call that kernels are tuned for.
        max_batch_size: Most images per call.
        device: Where it runs.
        fp32_layers: Prefixes of module names in the backbone that stay in fp32, beyond norms,
            softmax and head.
    """

    image_size: int
    num_classes: int
    precision: str
    optimal_batch_size: int
    max_batch_size: int
    device: torch.device
    fp32_layers: tuple[str, ...] = ()

    def with_fp32_layers(self, *prefixes: str) -> "EngineRequest":
        """Ask the same with more layers in fp32."""
        return replace(self, fp32_layers=(*self.fp32_layers, *prefixes))

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain values for a sidecar."""
        return {**asdict(self), "device": str(self.device), "fp32_layers": list(self.fp32_layers)}


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network as engines are made from it; they copy it and leave it unchanged.

    Attributes:
        backbone: Maps normalised float32 images [n, 3, s, s] to logits [n, classes]; in
            evaluation mode, in fp32.
        mean: Per channel, in the unit of the pixels (0..255).
        std: Per channel, in the unit of the pixels.
        name: Of the architecture, such as timm's; one of the keys of the engine cache.
        uses_channels_last: Whether the network is faster with channels last.
        digest: Of the weights, as `weights_digest` computes it; None has it computed at each use.
            Whoever gives it does not change them afterwards.
    """

    backbone: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    uses_channels_last: bool = False
    digest: str | None = None


class Backend(Protocol):
    """A way to make an engine as a file. The file may hold code: load only what is vouched for."""

    @property
    def name(self) -> str:
        """As `engine=` takes it."""

    @property
    def suffix(self) -> str:
        """Of the file, such as `.onnx`."""

    def unavailable(self, device: torch.device) -> str | None:
        """Say in one line why it cannot be used on a device and what to do; None when it can."""

    def versions(self, device: torch.device) -> dict[str, str]:
        """Name the libraries, beside torch, whose versions a file depends on."""

    def build(self, request: EngineRequest, network: TrainedNetwork, path: Path) -> None:
        """Write the engine's file.

        Args:
            request: What is asked for.
            network: Left unchanged.
            path: A file that is not there yet, with `suffix`.

        Raises:
            InputError: When the backend is unavailable.
            FaultError: When the network cannot be built.
        """

    def load(self, request: EngineRequest, path: Path) -> Engine:
        """Load a file that `build` wrote for the same request.

        Raises:
            FaultError: When it cannot be loaded.
        """


@runtime_checkable
class SharingBackend(Backend, Protocol):
    """A backend whose files are one code for all networks of a graph, each with its weights."""

    def own_build(self, device: torch.device) -> str | None:
        """Say why each network is built by itself on a device; None when code can be shared."""

    def code(self) -> Backend:
        """Return the backend that builds the code, to which values of weights do not matter."""

    def build_from(
        self, code: Path, request: EngineRequest, network: TrainedNetwork, path: Path
    ) -> None:
        """Write the engine's file with code that is there; else as `build`.

        Args:
            code: What `code` built for the same request and graph.
            request: What is asked for.
            network: Left unchanged.
            path: A file that is not there yet.

        Raises:
            CannotShare: When the code does not serve this network.
            FaultError: When the network does not run.
        """


class LiveBackend(Protocol):
    """A way to make an engine that lives in this process only."""

    @property
    def name(self) -> str:
        """As `engine=` takes it."""

    def unavailable(self, device: torch.device) -> str | None:
        """Say in one line why it cannot be used on a device and what to do; None when it can."""

    def wrap(self, request: EngineRequest, network: TrainedNetwork) -> Engine:
        """Make the engine.

        Raises:
            InputError: When the backend is unavailable.
        """
