"""Types of settings that several commands have in common; `gpuopt.schema` hands them on."""

from dataclasses import dataclass, field
from typing import Any

from gpuopt.hardware import AbsentGpu

__all__ = ["Compile", "Logging", "Precision", "RecommendTtaConfig", "TrainerValues"]


@dataclass
class Precision:
    """Arithmetic of training and prediction.

    Attributes:
        name: `auto`, `fp32`, `tf32`, `bf16` or `fp16`.
    """

    name: str = "auto"


@dataclass
class Compile:
    """Compilation of the backbone by torch.compile.

    Attributes:
        mode: `off`, `auto` (where it pays back within the run), `default`, `reduce-overhead` or
            `max-autotune`.
        backend: For example `inductor`, or `eager` to find faults of the compiler.
        time_limit_s: Most seconds that `auto` compiles, all modes together; at least 3.
    """

    mode: str = "off"
    backend: str = "inductor"
    time_limit_s: float = 120.0


@dataclass
class Logging:
    """The logger.

    Attributes:
        name: `tensorboard`, `csv` or `none`.
    """

    name: str = "tensorboard"


@dataclass
class TrainerValues:
    """Length and manner of training; see `conf/trainer/default.yaml`."""

    max_epochs: int = 4
    max_steps: int = -1
    devices: int = 1
    gradient_clip_norm: float | None = 1.0
    log_every_n_steps: int | None = None
    deterministic: bool = False


@dataclass
class RecommendTtaConfig:
    """Everything that `gpuopt recommend_tta` can be told; see `conf/recommend_tta.yaml`."""

    run: str = "latest"
    target_minutes: float | None = None
    min_f1: float | None = None
    images: Any = "auto"
    policies: list[str] = field(default_factory=lambda: ["none"])
    save_config: str | None = None
    precision: Precision = field(default_factory=Precision)
    gpu: AbsentGpu = field(default_factory=AbsentGpu)
    batch_size: Any = "auto"
    num_workers: Any = "auto"
    cache_dir: str | None = None
    format: str = "table"
    debug: bool = False
