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

__all__ = ["SHARED_CODE", "Layout", "fill", "layout_of", "open_package", "write_layout"]

SHARED_CODE: dict[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    # Else scalars and vectors of up to 8 values, such as a head's bias, become part of the code.
    "always_keep_tensor_constants": True,
}
"""Options of inductor for code that takes its weights later."""

_LAYOUT, _WEIGHTS = "constants.pt", "weights.pt"
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
    baked = sorted(layout.used - set(_load(code, device).get_constant_fqns()))
    if baked:
        raise CannotShare(f"the compiler made {baked[0]} a part of the code")
    shutil.copyfile(code, path)
    _append(path, _WEIGHTS, {name: tensors[name] for name in layout.used})


def open_package(path: Path, device: torch.device) -> Any:
    """Load a package as a function of images; code without weights computes with zeros.

    The weights are held once: the code reads the tensors that are loaded here.

    Raises:
        Exception: Of any kind, for a damaged or foreign package.
    """
    run = _load(path, device)
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
        return run
    constants = {name: weights[name] for name in run.get_constant_fqns()}
    run.load_constants(constants, check_full_update=True, user_managed=True)
    # The code keeps addresses only: what calls it keeps the weights.
    run.gpuopt_weights = constants
    return run


def _load(path: Path, device: torch.device) -> Any:
    index = device.index if device.type == "cuda" else None
    return torch._inductor.aoti_load_package(str(path), device_index=-1 if index is None else index)


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
