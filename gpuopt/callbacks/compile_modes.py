"""Which modes of torch.compile a fit can be trained in, and what stands against all of them."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from gpuopt.callbacks.adaptive_batch_size import AdaptiveBatchSize
from gpuopt.callbacks.global_batch_schedule import GlobalBatchSchedule
from gpuopt.callbacks.gradient_accumulation import GradientAccumulation
from gpuopt.callbacks.oom_recovery import OomRecovery
from gpuopt.steps.trainer_parts import callbacks_of

__all__ = ["modes_of", "other_sizes_because"]

_ACCUMULATING = (GlobalBatchSchedule, GradientAccumulation, GradientAccumulationScheduler)


def modes_of(trainer: L.Trainer, module: L.LightningModule, backend: str) -> tuple[str, ...]:
    """Return the modes to try, in their order.

    Tuned kernels and CUDA graphs are of CUDA; other backends than inductor have no modes. Both
    tuned modes run in CUDA graphs, where the gradients of a pass lie in memory that the next pass
    writes. So where several passes make up a step, or may do so later, they are left out. (A batch
    that `OomRecovery` splits is no such case: its parts are smaller than the batch that was
    compiled, and run eager.)
    """
    if trainer.strategy.root_device.type != "cuda" or backend != "inductor":
        return ("default",)
    accumulates = (
        trainer.accumulate_grad_batches > 1
        or not module.automatic_optimization  # nobody knows how many passes it takes
        or any(isinstance(callback, _ACCUMULATING) for callback in callbacks_of(trainer))
    )
    return ("default",) if accumulates else ("default", "reduce-overhead", "max-autotune")


def other_sizes_because(trainer: L.Trainer, samples: int) -> str | None:
    """Say why training takes batches in other sizes than the loader's; None when it does not.

    Args:
        trainer: In `on_fit_start`; callbacks have what a checkpoint remembers.
        samples: Of a batch of full size.
    """
    callbacks: list[Any] = callbacks_of(trainer)
    if any(isinstance(callback, AdaptiveBatchSize) for callback in callbacks):
        return "AdaptiveBatchSize changes the size of batches, and each would be compiled anew"
    for callback in callbacks:
        if isinstance(callback, OomRecovery):
            part = callback.steps.sizes["training"].part_of(samples)
            if part < samples:
                return f"OomRecovery goes on with {part} of {samples} samples at a time"
    return None
