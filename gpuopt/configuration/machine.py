"""Refuse what this machine does not have, before torch is imported or a file written.

These are paths of images and processors. Data sets check the same paths, and much more, when they
are opened, seconds later; `gpuopt config validate` asks for neither.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuopt.errors import InputError
from gpuopt.hardware import available_cpus
from gpuopt.storage import existing_folder, place_below, shown

__all__ = ["check_machine", "check_prediction_places"]


def check_machine(config: Mapping[str, Any]) -> None:
    """Check the processors of a training, and the places that it reads from and caches in.

    Args:
        config: The checked settings of `gpuopt train`.

    Raises:
        InputError: Names the key of the first thing that is missing or of the wrong kind.
    """
    devices = config["trainer"]["devices"]
    if config["gpu"]["name"] == "cpu" and devices > available_cpus():
        raise InputError(
            f"trainer.devices={devices}: this machine has {available_cpus()} processor(s) and "
            "trains on them"
        )
    cache = config.get("cache_dir")
    if cache is not None and Path(cache).expanduser().is_file():
        raise InputError(f"cache_dir={cache} is a file: give a folder, which may be a new one")
    node = config["data"]
    if _is_of(node, "ImageFolder"):
        if node.get("root") is None:
            raise InputError("data.root is not set: give the folder with one folder per class")
        existing_folder(Path(node["root"]).expanduser(), "data.root")
        if node.get("test_root") is not None:
            existing_folder(Path(node["test_root"]).expanduser(), "data.test_root")
    elif _is_of(node, "ImageCsv"):
        _check_lists(node, ("train_csv", "test_csv", "classes_csv"), ("train_dir", "test_dir"))


def check_prediction_places(node: Mapping[str, Any]) -> None:
    """Check the images that `gpuopt predict data=...` names; raises as `check_machine`."""
    root = node.get("root")
    if _is_of(node, "ImageFolder") and root is not None and not Path(root).expanduser().is_file():
        existing_folder(Path(root).expanduser(), "data.root")
    elif _is_of(node, "ImageCsv"):
        _check_lists(node, ("test_csv",), ("test_dir",))


def _is_of(node: Mapping[str, Any], kind: str) -> bool:
    return str(node["_target_"]).rpartition(".")[2] == kind


def _check_lists(node: Mapping[str, Any], files: tuple[str, ...], folders: tuple[str, ...]) -> None:
    given = {key: node[key] for key in (*files, *folders) if node.get(key) is not None}
    places = {key: place_below(node.get("root"), place) for key, place in given.items()}
    for key, place in places.items():
        if key in folders:
            existing_folder(place, f"data.{key}")
        elif not place.exists():
            raise InputError(f"there is no file {shown(place)}: set data.{key}")
