"""Types of settings that several commands have in common; `gpuopt.schema` hands them on."""

from dataclasses import dataclass

__all__ = ["Compile", "Logging", "Precision", "TrainerValues"]


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
