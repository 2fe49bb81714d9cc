"""Refuse a composed configuration that cannot work, before torch is imported or a file written."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from gpuopt.configuration.diagnosis_words import check_diagnosis
from gpuopt.configuration.given_arguments import GIVEN
from gpuopt.configuration.monitoring import check_monitor
from gpuopt.configuration.profiler_limits import check_profiler
from gpuopt.configuration.signatures import check_target
from gpuopt.configuration.tuning_words import check_tuning
from gpuopt.configuration.words import BETTER, CHOICES
from gpuopt.errors import InputError, nearest
from gpuopt.hardware import AbsentGpu, Gpu, resolve_precision
from gpuopt.recomputation import check_level
from gpuopt.tta import TestTimeAugmentation

__all__ = ["CHOICES", "RANGES", "check_config", "leaves"]

_Values = TypeVar("_Values", bound=Gpu | TestTimeAugmentation)

_COUNT = (1, 10_000_000)
_SHARE = (0.0, 1.0)
# Smallest and largest value of every number that is not checked by its own dataclass.
RANGES: dict[str, tuple[float, float]] = {
    "batch_size": _COUNT,
    "callbacks.adaptive_batch_size.growth_ratio": (1.01, 100.0),
    "callbacks.adaptive_batch_size.initial": _COUNT,
    "callbacks.adaptive_batch_size.maximum": _COUNT,
    "callbacks.adaptive_batch_size.target_ratio": (0.1, 1.0),
    "callbacks.batch_size_finder.maximum": _COUNT,
    "callbacks.batch_size_finder.minimum": _COUNT,
    "callbacks.batch_size_finder.steps": (2, 1000),
    "callbacks.checkpoint.every_n_seconds": (0.01, 1e7),
    "callbacks.checkpoint.every_n_steps": _COUNT,
    "callbacks.early_stopping.min_delta": _SHARE,
    "callbacks.early_stopping.patience": (1, 10_000),
    "callbacks.engine_export.max_batch_size": _COUNT,
    "callbacks.engine_export.optimal_batch_size": _COUNT,
    "callbacks.tensorrt_export.max_batch_size": _COUNT,
    "callbacks.tensorrt_export.optimal_batch_size": _COUNT,
    "callbacks.gpu_stats.interval_s": (0.05, 3600),
    "callbacks.moving_average.decay": (0.0, 0.999999),
    "callbacks.oom_recovery.grow_after_batches": (1, 1_000_000_000),
    "compile.time_limit_s": (3.0, 86_400.0),  # nothing is compiled in less
    "accumulate_grad_batches": _COUNT,
    "active": (1, 1000),  # a trace of more is larger than what can be looked at
    "duration": (0.1, 1e7),
    "global_batch_size": _COUNT,
    "image_size": (16, 4096),
    "interval": (0.05, 3600.0),
    "images": (1, 1_000_000_000),
    "learning_rate_reference_batch": _COUNT,
    "least_proof_images": (1, 1_000_000),
    "max_batch_size": _COUNT,
    "least_speed_ratio": (0.01, 1.0),
    "min_batch_size": _COUNT,
    "min_f1": _SHARE,
    "num_classes": (2, 100_000),
    "optimal_batch_size": _COUNT,
    "target": _COUNT,
    "target_minutes": (0.001, 1e6),
    "threshold_mib": (0.001, 1e7),
    "train_images": (1, 1_000_000_000),
    "micro_batch_size": _COUNT,
    "num_workers": (0, 512),
    "rounds": (3, 1000),
    "steps": (2, 1_000_000),
    "wait": (0, 1_000_000),
    "prefetch_factor": (1, 64),
    "probe_s": (0.01, 3600.0),
    "runs": (2, 1_000_000),
    "warmup": (0, 1_000_000),
    "seed": (0, 2**32 - 1),
    "folds": (2, 20),
    "folds_per_pass": (1, 20),
    "fold": (0, 19),
    "model.drop_path_rate": (0.0, 0.99),
    "model.drop_rate": (0.0, 0.99),
    "model.head_learning_rate_ratio": (1e-3, 1e4),
    "model.label_smoothing": (0.0, 0.99),
    "model.learning_rate": (1e-9, 10.0),
    "optimizer.beta1": (0.0, 0.999999),
    "optimizer.beta2": (0.0, 0.9999999),
    "optimizer.eps": (1e-16, 1.0),
    "optimizer.momentum": (0.0, 0.9999),
    "optimizer.weight_decay": (0.0, 10.0),
    "scheduler.final_ratio": _SHARE,
    "scheduler.warmup_samples": (0, 1e9),
    "trainer.devices": (1, 1024),
    "trainer.gradient_clip_norm": (1e-6, 1e6),
    "trainer.log_every_n_steps": _COUNT,
    "trainer.max_epochs": (1, 1_000_000),
    "trainer.max_steps": (-1, 1e12),
    "data.augmentation.blur": (0.0, 1.0),
    "data.augmentation.brightness": (0.0, 0.6),
    "data.augmentation.gamma": (0.0, 3.0),
    "data.augmentation.noise": (0.0, 255.0),
    "data.augmentation.rotation_degrees": (0.0, 180.0),
    "data.augmentation.scale_ratio": (0.0, 10.0),
    "data.augmentation.shift_ratio": (0.0, 1.0),
    "data.cache_limit_gib": (0.0, 1e6),
    "data.cutmix_alpha": (0.0, 100.0),
    "data.drawing_seed": (0, 2**32 - 1),
    "data.drawn_size": (64, 4096),
    "data.max_rejected_ratio": _SHARE,
    "data.mixup_alpha": (0.0, 100.0),
    "data.quickstart_image_size": (16, 4096),
    "data.test_count": (1, 99_999),
    "data.test_ratio": (0.01, 0.9),
    "data.train_count": (100, 99_999),
    "data.validation_ratio": (0.01, 0.9),
    "data.worker_timeout_s": (0, 86_400),
}
# Numbers of a callback of which the first may not be above the second.
_IN_ORDER = (
    ("adaptive_batch_size", "initial", "maximum"),
    ("batch_size_finder", "minimum", "maximum"),
    ("engine_export", "optimal_batch_size", "max_batch_size"),
    ("tensorrt_export", "optimal_batch_size", "max_batch_size"),
)
# Whole numbers that may also be left to gpuopt.
_AUTO_OR_NULL = ("max_batch_size", "optimal_batch_size")
_AUTO = (
    "batch_size",
    "folds_per_pass",
    "image_size",
    "images",
    "micro_batch_size",
    "num_workers",
    "wait",
)
_MOST_DEVICES = 1024
_LIVE_ENGINES = ("eager", "compiled")
_BENCHMARKS = ("engines",)
_OPTION = re.compile(r"[A-Za-z]\w[\w-]*")
_NEVER_EMPTY = ("compile.backend", "model.name", "tta.name")
_GROUPS_OF_OBJECTS = ("data", "model", "optimizer", "scheduler")


def check_config(config: Mapping[str, Any]) -> None:
    """Check a composed, resolved configuration.

    Args:
        config: Plain nested mappings, as `OmegaConf.to_container(..., resolve=True)` gives.

    Raises:
        InputError: For an unknown key, a wrong type, a number out of range or an unknown word.
    """
    for key in _NEVER_EMPTY:
        group, _, name = key.rpartition(".")
        values = config.get(group) if group else config
        if isinstance(values, Mapping) and str(values.get(name)).strip() == "":
            raise InputError(f"{key} is empty: give a name")
    for key in _AUTO:
        if key in config:
            _check_auto(key, config[key])
    for key in _AUTO_OR_NULL:
        if config.get(key) is not None:
            _check_auto(key, config[key])
    for key, value in leaves(config):
        _check_value(key, value)
    _check_folds(config.get("folds"), config.get("fold"))
    _check_device_ids(config.get("gpu_ids"))
    if "replay" in config:
        check_monitor(config)
        return
    if "engines" in config:
        _check_benchmark(config)
    if "threshold_mib" in config:
        check_diagnosis(config)
    if "least_speed_ratio" in config:
        check_tuning(config)
    if "optimize" in config:
        _check_engine(config)
    if config.get("format") == "markdown" and "report" not in config:
        raise InputError("format=markdown is not one of table, json")
    _check_policies(config.get("policies"))
    if "activities" in config:
        check_profiler(config)
    is_training = "callbacks" in config
    for group in _GROUPS_OF_OBJECTS:
        if is_training or config.get(group) is not None:
            _check_object(config.get(group), group, config)
    if is_training:
        _check_callbacks(config)
        _check_statistics(config["model"])
    kind = AbsentGpu if "memory_gib" in config["gpu"] else Gpu
    gpu = _of_fields(kind, {**config["gpu"], "seed": None}, "gpu")
    gpu.check()
    if gpu.is_cpu:
        resolve_precision(config["precision"]["name"], None, is_cuda=False)
    if "tta" in config:
        _of_fields(TestTimeAugmentation, config["tta"], "tta").check()


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk every value of nested mappings with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_auto(key: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value != "auto" and not whole:
        raise InputError(f"{key}={value} is neither auto nor a whole number")


def _check_folds(folds: int | None, fold: int | None) -> None:
    if fold is None:
        return
    if folds is None:
        raise InputError(f"fold={fold} is one of several: say of how many with folds=N")
    if fold >= folds:
        raise InputError(f"fold={fold} does not exist: folds={folds} are counted from 0")


def _check_device_ids(gpu_ids: list[int] | None) -> None:
    if gpu_ids is None:
        return
    in_range = all(0 <= number < _MOST_DEVICES for number in gpu_ids)
    if not gpu_ids or not in_range or len(set(gpu_ids)) < len(gpu_ids):
        raise InputError(
            f"gpu_ids={gpu_ids}: give CUDA's numbers of different devices, such as [0,1]"
        )


def _check_benchmark(config: Mapping[str, Any]) -> None:
    if config["target"] not in _BENCHMARKS:
        raise InputError(f"target={config['target']} is not one of {', '.join(_BENCHMARKS)}")
    known = [str(name) for name in CHOICES["engine"] if name != "auto"]
    for name in config["engines"]:
        if name not in known:
            raise InputError(f"engines: {name} is no engine{nearest(str(name), known)}")
    sizes = []
    for key in ("optimal_batch_size", "max_batch_size"):
        _check_auto(key, config[key])
        sizes += [config[key]] if config[key] != "auto" else []
    if len(sizes) == 2 and sizes[0] > sizes[1]:
        raise InputError(f"optimal_batch_size={sizes[0]} is above max_batch_size={sizes[1]}")
    if config["run"] is not None and config["engine_path"] is not None:
        raise InputError("give run= or engine_path=, not both: an engine's file is timed alone")


def _check_engine(config: Mapping[str, Any]) -> None:
    """Refuse words about the engine of a prediction of which one would be ignored."""
    engine, path = config["engine"], config["engine_path"]
    if config["optimize"] and (engine != "auto" or path is not None):
        other = f"engine={engine}" if engine != "auto" else f"engine_path={path}"
        raise InputError(f"optimize=true looks for the best engine, and {other} names one: drop it")
    if path is not None and engine in _LIVE_ENGINES:
        raise InputError(f"engine={engine} is no file, and engine_path={path} is: give one of them")


def _check_policies(policies: list[str] | None) -> None:
    for name in [] if policies is None else policies or [""]:
        if not _OPTION.fullmatch(name):
            raise InputError(f"policies={policies}: give options of tta=, such as [none,essential]")


def _check_callbacks(config: Mapping[str, Any]) -> None:
    callbacks = config["callbacks"]
    if not isinstance(callbacks, Mapping) or "checkpoint" not in callbacks:
        raise InputError(
            "callbacks.checkpoint is missing, without which no run can be resumed: "
            "take callbacks=default and switch single ones with callbacks.NAME.enabled"
        )
    for name, node in callbacks.items():
        where = f"callbacks.{name}"
        enabled = node.get("enabled", True) if isinstance(node, Mapping) else True
        if not isinstance(enabled, bool):
            raise InputError(f"{where}.enabled={enabled!r} is not true or false")
        if isinstance(node, Mapping) and name != "checkpoint":
            node = {key: value for key, value in node.items() if key != "enabled"}
        _check_object(node, where, config)
        if isinstance(node, Mapping) and node.get("monitor") in BETTER:
            _check_direction(where, str(node["monitor"]), node.get("mode", "max"))
    for name, low, high in _IN_ORDER:
        if isinstance(node := callbacks.get(name), Mapping):
            _check_order(f"callbacks.{name}", node, low, high)


def _check_order(where: str, node: Mapping[str, Any], low: str, high: str) -> None:
    least, most = node.get(low), node.get(high)
    if least is not None and most is not None and least > most:
        raise InputError(f"{where}.{low}={least} is above {where}.{high}={most}: lower it")


def _check_direction(where: str, monitor: str, mode: Any) -> None:
    """Refuse to keep the worst epoch as the best."""
    if mode != BETTER[monitor]:
        raise InputError(
            f"{where}.mode={mode} would take the worst {monitor} for the best: "
            f"give {where}.mode={BETTER[monitor]}"
        )


def _check_statistics(model: Mapping[str, Any]) -> None:
    if model.get("batch_norm") == "frozen" and not model.get("pretrained"):
        raise InputError(
            "model.batch_norm=frozen keeps the statistics of pretrained weights, and "
            "model.pretrained=false has none: leave one of them out"
        )


def _check_object(node: Any, where: str, config: Mapping[str, Any]) -> None:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise InputError(f"{where} must hold a _target_: choose an option of the group")
    for key in node:
        if key in GIVEN.get(where, ()):
            instead = f": write {key}=..." if key in config else ""
            raise InputError(f"{where}.{key} is set by the program{instead}")
    check_target(node, where)


def _check_value(key: str, value: Any) -> None:
    if key == "model.checkpointing":
        check_level(str(value))
        return
    known = CHOICES.get(key)
    if key == "report":
        if not value:
            raise InputError(f"say what to report: report={' or '.join(map(str, known or ()))}")
        if isinstance(value, list):
            _check_reports(value)
            return
    if known is not None and not any(value is word or str(value) == word for word in known):
        # YAML reads a bare on or off as true or false.
        slipped = isinstance(value, bool) or value in ("True", "False")
        hint = ": in a file, put on and off in quotes" if slipped and "off" in known else ""
        words = ", ".join(str(word).lower() for word in known)
        raise InputError(f"{key}={value} is not one of {words}{hint}")
    if key == "trainer.max_steps" and value == 0:
        raise InputError("trainer.max_steps=0 would train nothing: give a number, or -1 for all")
    if key in RANGES and isinstance(value, int | float) and not isinstance(value, bool):
        low, high = RANGES[key]
        if not low <= value <= high:
            raise InputError(f"{key}={value} is out of range: {low:g} to {high:g}")


def _check_reports(names: list[Any]) -> None:
    for name in names:
        _check_value("report", name if isinstance(name, str) else repr(name))
    if len(set(names)) < len(names):
        raise InputError(f"report={names} names a report twice: give each once")


def _of_fields(kind: type[_Values], node: Mapping[str, Any], where: str) -> _Values:
    """Make a dataclass; Hydra lets `+key=value` add keys that it does not have."""
    known = [field.name for field in fields(kind)]
    for key in node:
        if key not in known:
            raise InputError(f"{where} has no key {key!r}{nearest(str(key), known)}")
    return kind(**node)
