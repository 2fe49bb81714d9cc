"""The types of every setting, registered with Hydra, so that a typo ends in one clear line.

Values (numbers, words, switches) are dataclasses here or on the floors. Objects (data, model,
optimizer, scheduler, callbacks) are YAML with a `_target_`; `gpuopt.configuration` checks their
keys. Importing this module imports no torch.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpuopt.errors import InputError
from gpuopt.hardware import AbsentGpu, Gpu
from gpuopt.schema_values import Compile, Logging, Precision, RecommendTtaConfig, TrainerValues
from gpuopt.telemetry.settings import MonitorConfig
from gpuopt.tta import TestTimeAugmentation

__all__ = [
    "CONF_DIR",
    "SCHEMAS",
    "USER_CONF_MARKER",
    "BenchmarkConfig",
    "CheckConfig",
    "Compile",
    "DiagnoseConfig",
    "ExportConfig",
    "FindBatchSizeConfig",
    "Logging",
    "MonitorConfig",
    "Precision",
    "PredictConfig",
    "ProfilerConfig",
    "RecommendTtaConfig",
    "TrainConfig",
    "TrainerValues",
    "TuneConfig",
    "fitting",
    "register",
    "to_benchmark_config",
    "to_check_config",
    "to_diagnose_config",
    "to_export_config",
    "to_find_config",
    "to_monitor_config",
    "to_predict_config",
    "to_profiler_config",
    "to_recommend_config",
    "to_train_config",
    "to_tune_config",
]

_PACKAGE = Path(__file__).parent
# A wheel carries the configuration inside the package; a checkout has it beside the package.
CONF_DIR = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
# `gpuopt config copy` writes this file. Without it a folder named conf is somebody else's.
USER_CONF_MARKER = ".gpuopt"

_Config = TypeVar("_Config")


@dataclass
class TrainConfig:
    """Everything that `gpuopt train` can be told; see `conf/train.yaml`."""

    data: Any = None
    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    trainer: TrainerValues = field(default_factory=TrainerValues)
    precision: Precision = field(default_factory=Precision)
    tta: TestTimeAugmentation = field(default_factory=TestTimeAugmentation)
    callbacks: Any = None
    logger: Logging = field(default_factory=Logging)
    gpu: Gpu = field(default_factory=Gpu)
    compile: Compile = field(default_factory=Compile)
    mode: str = "quickstart"
    experiment: str = "none"
    image_size: Any = "auto"
    micro_batch_size: Any = "auto"
    global_batch_size: int | None = None
    accumulate_grad_batches: int | None = None
    global_batch_schedule: Any = None
    learning_rate_rule: str = "none"
    learning_rate_reference_batch: int | None = None
    num_workers: Any = "auto"
    prefetch_factor: int = 2
    pin_memory: bool = True
    precision_probe: bool = True
    use_calibration: bool = False
    seed: int = 0
    folds: int | None = None
    fold: int | None = None
    fold_processes: bool = False
    cache_dir: str | None = None
    run: str | None = None
    resume: Any = None
    debug: bool = False


@dataclass
class PredictConfig:
    """Everything that `gpuopt predict` can be told; see `conf/predict.yaml`."""

    run: str = "latest"
    data: Any = None
    precision: Precision = field(default_factory=Precision)
    tta: TestTimeAugmentation = field(default_factory=TestTimeAugmentation)
    gpu: Gpu = field(default_factory=Gpu)
    batch_size: Any = "auto"
    folds_per_pass: Any = "auto"
    engine: str = "auto"
    engine_path: str | None = None
    provider: str = "auto"
    optimize: bool = False
    num_workers: Any = "auto"
    use_calibration: Any = "auto"
    output: str | None = None
    resume: Any = None
    cache_dir: str | None = None
    debug: bool = False


@dataclass
class ExportConfig:
    """Everything that `gpuopt export` can be told; see `conf/export.yaml`."""

    run: str = "latest"
    checkpoint: str | None = None
    model: Any = None
    num_classes: int | None = None
    image_size: Any = "auto"
    data: Any = None
    engine: str = "auto"
    provider: str = "auto"
    precision: Precision = field(default_factory=Precision)
    gpu: Gpu = field(default_factory=Gpu)
    optimal_batch_size: Any = "auto"
    max_batch_size: Any = "auto"
    fp32_layers: list[str] = field(default_factory=list)
    output: str | None = None
    cache_dir: str | None = None
    debug: bool = False


@dataclass
class CheckConfig:
    """Everything that `gpuopt check` can be told; see `conf/check.yaml`."""

    report: Any = "summary"
    format: str = "table"
    model: Any = None
    optimizer: Any = None
    precision: Precision = field(default_factory=Precision)
    gpu: AbsentGpu = field(default_factory=AbsentGpu)
    image_size: Any = "auto"
    moving_average: bool = False
    run: str | None = None
    images: int = 3140
    train_images: int = 1570
    cache_dir: str | None = None
    debug: bool = False


@dataclass
class BenchmarkConfig:
    """Everything that `gpuopt benchmark` can be told; see `conf/benchmark.yaml`."""

    target: str = "engines"
    run: str | None = None
    engine_path: str | None = None
    engines: list[str] = field(default_factory=list)
    data: Any = None
    precision: Precision = field(default_factory=Precision)
    gpu: Gpu = field(default_factory=Gpu)
    optimal_batch_size: Any = "auto"
    max_batch_size: Any = "auto"
    warmup: int = 10
    runs: int = 100
    least_proof_images: int = 500
    format: str = "table"
    cache_dir: str | None = None
    debug: bool = False


@dataclass
class FindBatchSizeConfig(TrainConfig):
    """Everything that `gpuopt find_batch_size` can be told; see `conf/find_batch_size.yaml`.

    It takes the settings of `gpuopt train`, since these decide what memory a step needs.
    """

    gpu: AbsentGpu = field(default_factory=AbsentGpu)
    purpose: str = "train"
    gpu_ids: list[int] | None = None
    min_batch_size: int = 1
    max_batch_size: int | None = None
    target: int | None = None
    test_only: bool = False
    aggressive: bool = False
    save_config: str | None = None
    memory_profile: str | None = None
    format: str = "table"


@dataclass
class DiagnoseConfig(TrainConfig):
    """Everything that `gpuopt diagnose` can be told; see `conf/diagnose.yaml`.

    It takes the settings of `gpuopt train`, whose steps it looks at.
    """

    target: str = "bottleneck"
    rounds: int = 8
    duration: float = 600.0
    threshold_mib: float = 100.0
    interval: float = 1.0
    load: str = "none"
    format: str = "table"


@dataclass
class ProfilerConfig(TrainConfig):
    """Everything that `gpuopt profiler` can be told; see `conf/profiler.yaml`.

    It takes the settings of `gpuopt train`, of which it runs a part.
    """

    steps: int = 100
    wait: Any = "auto"
    warmup: int = 3
    active: int = 10
    activities: list[str] = field(default_factory=lambda: ["cpu", "cuda"])
    record_shapes: bool = False
    with_stack: bool = False
    profile_memory: bool = False
    nsys: Any = False
    output: str = "outputs/profiler"


@dataclass
class TuneConfig(TrainConfig):
    """Everything that `gpuopt tune` can be told; see `conf/tune.yaml`.

    It takes the settings of `gpuopt train`, which is what it measures.
    """

    gpu: AbsentGpu = field(default_factory=AbsentGpu)
    target: str = "all"
    goal: str = "throughput"
    least_speed_ratio: float = 0.5
    probe_s: float = 1.0
    save_config: str | None = "auto"
    format: str = "table"


# By the name of the primary configuration.
SCHEMAS: dict[str, type] = {
    "benchmark": BenchmarkConfig,
    "check": CheckConfig,
    "diagnose": DiagnoseConfig,
    "export": ExportConfig,
    "find_batch_size": FindBatchSizeConfig,
    "monitor": MonitorConfig,
    "predict": PredictConfig,
    "profiler": ProfilerConfig,
    "recommend_tta": RecommendTtaConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
}


class _UserConf(SearchPathPlugin):
    """Puts ./conf before the shipped folder, so that a user's file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = Path.cwd() / "conf"
        if (folder / USER_CONF_MARKER).is_file() and folder.resolve() != CONF_DIR.resolve():
            search_path.prepend(provider="user", path=f"file://{folder}")


def to_train_config(content: Mapping[str, Any]) -> TrainConfig:
    """Turn plain settings into dataclasses.

    Raises:
        InputError: When a key or type does not fit, such as in a file from another version.
    """
    return _to_object(TrainConfig, content)


def to_predict_config(content: Mapping[str, Any]) -> PredictConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(PredictConfig, content)


def to_benchmark_config(content: Mapping[str, Any]) -> BenchmarkConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(BenchmarkConfig, content)


def to_check_config(content: Mapping[str, Any]) -> CheckConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(CheckConfig, content)


def to_diagnose_config(content: Mapping[str, Any]) -> DiagnoseConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(DiagnoseConfig, content)


def to_export_config(content: Mapping[str, Any]) -> ExportConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(ExportConfig, content)


def to_find_config(content: Mapping[str, Any]) -> FindBatchSizeConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(FindBatchSizeConfig, content)


def to_profiler_config(content: Mapping[str, Any]) -> ProfilerConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(ProfilerConfig, content)


def to_tune_config(content: Mapping[str, Any]) -> TuneConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(TuneConfig, content)


def to_monitor_config(content: Mapping[str, Any]) -> MonitorConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(MonitorConfig, content)


def to_recommend_config(content: Mapping[str, Any]) -> RecommendTtaConfig:
    """Turn plain settings into dataclasses; raises as `to_train_config`."""
    return _to_object(RecommendTtaConfig, content)


def fitting(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Fit plain settings into a schema: what an interpolation brought may be of another type.

    Args:
        kind: `TrainConfig` or `PredictConfig`.
        content: Resolved settings.

    Raises:
        InputError: Names the key of the first value that does not fit.
    """
    try:
        fitted = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(kind), content))
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(fitted, dict)  # a structured configuration is a mapping
    return {str(key): value for key, value in fitted.items()}


def _to_object(kind: type[_Config], content: Mapping[str, Any]) -> _Config:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), dict(content))
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the configuration does not fit this version: {reason}") from error
    assert isinstance(config, kind)  # the schema of the merge is this class
    return config


@functools.cache
def register() -> None:
    """Register the schemas and the user's conf folder with Hydra; once, however often called."""
    store = ConfigStore.instance()
    for name, kind in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=kind)
    Plugins.instance().register(_UserConf)
    # Hydra copies the whole store each time it composes, and a hundred times for `--help`, though
    # it never changes what is in there; one copy takes 30 ms.
    type.__setattr__(ConfigStore, "__deepcopy__", lambda store, _: store)
