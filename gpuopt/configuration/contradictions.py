"""Settings that are each in range, and do not go together or name nothing."""

import re
from collections.abc import Mapping
from typing import Any

from gpuopt.errors import InputError

__all__ = ["check_device_ids", "check_engine", "check_folds", "check_policies"]

_MOST_DEVICES = 1024
_LIVE_ENGINES = ("eager", "compiled")
_OPTION = re.compile(r"[A-Za-z]\w[\w-]*")


def check_folds(folds: int | None, fold: int | None) -> None:
    """Refuse a fold that is none of those that are trained."""
    if fold is None:
        return
    if folds is None:
        raise InputError(f"fold={fold} is one of several: say of how many with folds=N")
    if fold >= folds:
        raise InputError(f"fold={fold} does not exist: folds={folds} are counted from 0")


def check_device_ids(gpu_ids: list[int] | None) -> None:
    """Refuse a list that names no device, or one twice."""
    if gpu_ids is None:
        return
    in_range = all(0 <= number < _MOST_DEVICES for number in gpu_ids)
    if not gpu_ids or not in_range or len(set(gpu_ids)) < len(gpu_ids):
        raise InputError(
            f"gpu_ids={gpu_ids}: give CUDA's numbers of different devices, such as [0,1]"
        )


def check_engine(config: Mapping[str, Any]) -> None:
    """Refuse words about the engine of a prediction of which one would be ignored."""
    engine, path = config["engine"], config["engine_path"]
    if config["optimize"] and (engine != "auto" or path is not None):
        other = f"engine={engine}" if engine != "auto" else f"engine_path={path}"
        raise InputError(f"optimize=true looks for the best engine, and {other} names one: drop it")
    if path is not None and engine in _LIVE_ENGINES:
        raise InputError(f"engine={engine} is no file, and engine_path={path} is: give one of them")


def check_policies(policies: list[str] | None) -> None:
    """Refuse what cannot be an option of `tta=`."""
    for name in [] if policies is None else policies or [""]:
        if not _OPTION.fullmatch(name):
            raise InputError(f"policies={policies}: give options of tta=, such as [none,essential]")
