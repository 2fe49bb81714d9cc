"""What decides how much memory a model takes, apart from its batch."""

from dataclasses import dataclass

__all__ = ["MemorySetup"]


@dataclass(frozen=True)
class MemorySetup:
    """One configuration whose memory is asked for.

    Attributes:
        model_name: Any name that timm knows, without the `timm/` of its hub.
        image_size: Side of the square RGB images in pixels; None takes the size that the model
            was trained for.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        checkpointing: `none`, `stages=K` to recompute the blocks of the first K stages in
            backward, or `full` for those of all stages.
        num_classes: Classes of the head; the model's own when None.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth; None keeps the model's default.
        frozen_statistics: Whether BatchNorm keeps its statistics (`gpuopt.batch_statistics`).
        training: Whether to train; else only forward passes run.
        optimizer_moments: fp32 values that the optimizer keeps of each parameter; 2 is AdamW,
            1 is SGD with momentum.
        optimizer_is_fused: Whether its step is one kernel, which needs no memory of its own.
        moving_average: Whether an average of the weights is kept beside them.
        optimizer_is_offloaded: Whether the optimizer's values lie in host memory, but for those
            of small parameters.
        accumulates: Whether gradients of earlier micro-batches are there in a backward pass. A
            step of one micro-batch makes them as it goes on: with checkpointing, whose peak may
            come early in the backward pass, it needs less. Networks with BatchNorm or dropout keep
            a pass's own gradients beside the earlier ones until it ends, for `OomRecovery`.
    """

    model_name: str
    image_size: int | None
    precision: str
    checkpointing: str = "none"
    num_classes: int | None = None
    drop_rate: float = 0.0
    drop_path_rate: float | None = None
    frozen_statistics: bool = False
    training: bool = True
    optimizer_moments: int = 2
    optimizer_is_fused: bool = True
    moving_average: bool = False
    optimizer_is_offloaded: bool = False
    accumulates: bool = True

    @property
    def in_half(self) -> bool:
        """Whether autocast computes in two bytes; fp16 and bf16 take the same memory."""
        return self.precision in ("bf16", "fp16")
