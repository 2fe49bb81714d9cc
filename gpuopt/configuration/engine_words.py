"""Refuse words about engines that cannot be meant."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpuopt.errors import InputError, nearest

__all__ = ["SIZES", "check_benchmark", "check_engine"]

SIZES = ("optimal_batch_size", "max_batch_size")
"""Images per call that an engine is built for: `auto` or whole numbers, the first the smaller."""

_BENCHMARKS = ("engines",)
_LIVE_ENGINES = ("eager", "compiled")


def check_benchmark(config: Mapping[str, Any], engines: Sequence[Any]) -> None:
    """Check the settings that only `gpuopt benchmark` has.

    Args:
        config: Composed settings of it, whose sizes are `auto` or numbers.
        engines: Every word that `engine=` takes.

    Raises:
        InputError: Names the setting.
    """
    if config["target"] not in _BENCHMARKS:
        raise InputError(f"target={config['target']} is not one of {', '.join(_BENCHMARKS)}")
    known = [str(name) for name in engines if name != "auto"]
    for name in config["engines"]:
        if name not in known:
            raise InputError(f"engines: {name} is no engine{nearest(str(name), known)}")
    sizes = [config[key] for key in SIZES if config[key] != "auto"]
    if len(sizes) == 2 and sizes[0] > sizes[1]:
        raise InputError(f"optimal_batch_size={sizes[0]} is above max_batch_size={sizes[1]}")
    if config["run"] is not None and config["engine_path"] is not None:
        raise InputError("give run= or engine_path=, not both: an engine's file is timed alone")


def check_engine(config: Mapping[str, Any]) -> None:
    """Refuse words about the engine of a prediction of which one would be ignored.

    Args:
        config: Composed settings of `gpuopt predict`.

    Raises:
        InputError: Names them.
    """
    engine, path = config["engine"], config["engine_path"]
    if config["optimize"] and (engine != "auto" or path is not None):
        other = f"engine={engine}" if engine != "auto" else f"engine_path={path}"
        raise InputError(f"optimize=true looks for the best engine, and {other} names one: drop it")
    if path is not None and engine in _LIVE_ENGINES:
        raise InputError(f"engine={engine} is no file, and engine_path={path} is: give one of them")
