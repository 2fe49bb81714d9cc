"""The GPU presets as a table, and finding a card in it."""

import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpuopt.errors import InputError, nearest
from gpuopt.hardware.gpu import Gpu, SeedRow

__all__ = ["load_catalogue", "recognise", "shipped_catalogue"]

# CUDA's total is 1 to 2 % below what nvidia-smi prints; variants differ by a fifth or more.
_MEMORY_TOLERANCE = 0.03


def load_catalogue(folder: Path) -> dict[str, Gpu]:
    """Read every preset of a folder.

    Args:
        folder: Holds one YAML file per preset, such as `conf/gpu`.

    Returns:
        The presets by file stem, in alphabetical order, `auto` and `cpu` included.

    Raises:
        InputError: The folder has no presets, or a file is not YAML, has an unknown key, a
            value of the wrong type or an absurd number; the message names file and key.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise InputError(f"{folder}: no GPU presets (*.yaml) there")
    return {path.stem: _read_preset(path) for path in paths}


@functools.cache
def shipped_catalogue() -> Mapping[str, Gpu]:
    """Read the presets that come with the program, for who has no configuration of their own."""
    package = Path(__file__).parents[1]
    # A wheel carries the configuration inside the package; a checkout has it beside the package.
    places = (package / "conf" / "gpu", package.parent / "conf" / "gpu")
    return load_catalogue(next(path for path in places if path.is_dir()))


def recognise(name: str, memory_mib: float, catalogue: Mapping[str, Gpu]) -> str | None:
    """Find the preset of a card by its driver name and its memory.

    The name must be the whole one, because laptop parts, "4090 D" and SUPER cards extend the
    name of another card; only the prefix "NVIDIA", which old drivers leave out, is ignored.

    Args:
        name: What NVML or CUDA calls the card.
        memory_mib: Its total memory, within 3 % of the preset's.
        catalogue: From `load_catalogue`.

    Returns:
        The stem of the nearest preset in memory, or None for a card that is not listed.
    """
    wanted = _bare_name(name)
    distances = {
        stem: abs(memory_mib - gpu.memory_mib) / gpu.memory_mib
        for stem, gpu in catalogue.items()
        if gpu.nvml_name and gpu.memory_mib and _bare_name(gpu.nvml_name) == wanted
    }
    stem = min(distances, key=lambda candidate: distances[candidate], default=None)
    return stem if stem is not None and distances[stem] <= _MEMORY_TOLERANCE else None


def _bare_name(name: str) -> str:
    return " ".join(name.split()).removeprefix("NVIDIA ")


def _read_preset(path: Path) -> Gpu:
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a GPU preset: {reason}") from error
    gpu = Gpu(**_checked(content, Gpu, str(path)))
    try:
        gpu.check()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return gpu


def _parse(text: str) -> Any:
    """Parse with libyaml where PyYAML has it: every command reads all presets as it starts."""
    if yaml.__with_libyaml__:
        return yaml.load(text, Loader=yaml.CSafeLoader)
    return yaml.safe_load(text)


def _checked(content: Any, schema: type[Gpu] | type[SeedRow], where: str) -> dict[str, Any]:
    """Compare a mapping with the fields of a dataclass and return it ready to construct one."""
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected keys and values, found {type(content).__name__}")
    annotations = typing.get_type_hints(schema)
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in annotations:
            raise InputError(f"{where}: unknown key {key!r}{nearest(str(key), annotations)}")
        if key == "seed" and value is not None:
            values[key] = SeedRow(**_checked(value, SeedRow, f"{where}: seed"))
            continue
        if not _fits(value, annotations[key]):
            raise InputError(f"{where}: {key}={value!r} has the wrong type")
        values[key] = value
    return values


def _fits(value: Any, annotation: Any) -> bool:
    """Tell whether a YAML value is of an annotated type; a whole number is also a float."""
    if isinstance(annotation, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(annotation))
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)
