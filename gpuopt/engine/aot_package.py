"""Packages of AOTInductor whose machine code and weights are told apart.

Networks of one graph, such as those of five folds, share code that took a minute to compile. Their
packages are copies of it, each with its own weights as one more member of the archive.

`constants.pt` says what the code was compiled for, and `weights.pt` is what it computes with.
"""

import io
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from gpuopt.engine.protocol import CannotShare

__all__ = [
    "SHARED_CODE",
    "Layout",
    "Package",
    "fill",
    "layout_of",
    "open_package",
    "write_layout",
]

SHARED_CODE: dict[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    # Else scalars and vectors of up to 8 values, such as a head's bias, become part of the code.
    "always_keep_tensor_constants": True,
}
"""Options of inductor for code that takes its weights later."""

_LAYOUT, _WEIGHTS = "constants.pt", "weights.pt"
_MODEL = "model"  # the name that AOTInductor gives a package's only one
_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_Place = tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """What code was compiled for.

    Attributes:
        places: Type, shape and strides of every parameter and buffer, by name.
        used: Names that the graph reads.
    """

    places: Mapping[str, _Place]
    used: frozenset[str]


def layout_of(program: ExportedProgram, served: nn.Module) -> Layout:
    """Read what a graph needs.

    Args:
        program: Exported from the module.
        served: The module.

    Raises:
        CannotShare: For a graph with constants of its own, which AOTInductor gives other names.
    """
    tensors = _tensors(served)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    specs = zip(program.graph_signature.input_specs, nodes, strict=True)
    used = [spec.target for spec, node in specs if spec.kind in _KINDS and node.users]
    names = frozenset(name for name in used if name is not None)
    if own := sorted(names - tensors.keys()):
        raise CannotShare(f"{own[0]} is a constant of the network's code")
    return Layout({name: _place(value) for name, value in tensors.items()}, names)


def write_layout(code: Path, layout: Layout) -> None:
    """Put what code was compiled for into its package."""
    _append(code, _LAYOUT, {"places": dict(layout.places), "used": sorted(layout.used)})


def fill(code: Path, served: nn.Module, path: Path, device: torch.device) -> None:
    """Write a package of shared code and a network's own weights.

    Args:
        code: Has a layout.
        served: On the device, as it would be exported.
        path: A new file.
        device: Where it runs.

    Raises:
        CannotShare: When the code was compiled for another graph, or holds weights itself.
    """
    layout, tensors = _layout(code), _tensors(served)
    places = {name: _place(value) for name, value in tensors.items()}
    changed = sorted(
        name
        for name in places.keys() | layout.places.keys()
        if places.get(name) != layout.places.get(name)
    )
    if changed:
        raise CannotShare(f"{changed[0]} is laid out otherwise in the code that is there")
    baked = sorted(layout.used - set(Package(code, device).weight_names()))
    if baked:
        raise CannotShare(f"the compiler made {baked[0]} a part of the code")
    shutil.copyfile(code, path)
    _append(path, _WEIGHTS, {name: tensors[name] for name in layout.used})


class Package:
    """Machine code as a function of images.

    It is loaded without `torch._inductor.aoti_load_package`, which also asks what the host's
    compiler could build, and only warns where that is not what it was: PyTorch 2.11 starts
    processes for it that import torch, most of a minute on the host of an H200. The key of an
    engine names the processor.

    Args:
        path: A package.
        device: Where it runs.

    Attributes:
        weights: What the code computes with. It keeps addresses only, so they are kept here.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        index = device.index if device.type == "cuda" else None
        self._loader = torch._C._aoti.AOTIModelPackageLoader(
            str(path), _MODEL, False, 1, -1 if index is None else index
        )
        self.weights: Mapping[str, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Classify uint8 images [n, 3, s, s]; returns float32 logits [n, classes]."""
        logits: Tensor = self._loader.boxed_run([images])[0]
        return logits

    def weight_names(self) -> list[str]:
        """Name the weights that the code takes; those that are a part of it are not among them."""
        return list(self._loader.get_constant_fqns())

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Compute with these from now on, without a copy of them."""
        self.weights = {name: weights[name] for name in self.weight_names()}
        use_inactive, check_full_update, user_managed = False, True, True
        self._loader.load_constants(self.weights, use_inactive, check_full_update, user_managed)


def open_package(path: Path, device: torch.device) -> Package:
    """Load a package; code without weights computes with zeros.

    The weights are held once: the code reads the tensors that are loaded here.

    Raises:
        Exception: Of any kind, for a damaged or foreign package.
    """
    package = Package(path, device)
    with zipfile.ZipFile(path) as archive:
        members = {Path(name).name: name for name in archive.namelist()}
    if _WEIGHTS in members:
        weights = _read(path, _WEIGHTS, device)
    elif _LAYOUT in members:
        layout = _layout(path)
        weights = {
            name: torch.empty_strided(shape, stride, dtype=dtype, device=device).zero_()
            for name, (dtype, shape, stride) in layout.places.items()
        }
    else:
        return package
    package.take_weights(weights)
    return package


def _tensors(served: nn.Module) -> dict[str, Tensor]:
    return {**dict(served.named_parameters()), **dict(served.named_buffers())}


def _place(value: Tensor) -> _Place:
    return value.dtype, tuple(value.shape), tuple(value.stride())


def _layout(code: Path) -> Layout:
    content = _read(code, _LAYOUT, torch.device("cpu"))
    return Layout(content["places"], frozenset(content["used"]))


def _append(package: Path, member: str, content: Mapping[str, Any]) -> None:
    """Add a member under the archive's own folder, beside what AOTInductor reads."""
    stream = io.BytesIO()
    values = {k: v.detach() if isinstance(v, Tensor) else v for k, v in content.items()}
    torch.save(values, stream)
    with zipfile.ZipFile(package, "a", zipfile.ZIP_STORED) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/gpuopt/{member}", stream.getbuffer())


def _read(package: Path, member: str, device: torch.device) -> dict[str, Any]:
    with zipfile.ZipFile(package) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        stream = io.BytesIO(archive.read(f"{folder}/gpuopt/{member}"))
    content: dict[str, Any] = torch.load(stream, map_location=device, weights_only=True)
    return content
