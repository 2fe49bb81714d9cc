"""A training for `gpuopt diagnose`: how it is named and set, and what looks on."""

from collections.abc import Callable

import lightning.pytorch as L

from gpuopt.diagnosis.remedies import RunSetting
from gpuopt.hardware import available_cpus
from gpuopt.throwaway_run import ThrowawayRun

__all__ = ["run_setting", "run_title", "train_with"]

_FOREVER = 1_000_000


def run_title(run: ThrowawayRun) -> str:
    """Say for people what is trained, and where."""
    plan = run.plan
    batch = f"{plan.micro_batch_size} x {plan.accumulate_grad_batches} images per step"
    return (
        f"{run.model.name} at {plan.image_size} px, {batch}, {plan.precision} on "
        f"{plan.gpu.name}, {run.data.num_workers} loader processes"
    )


def run_setting(run: ThrowawayRun) -> RunSetting:
    """Say how it is set, for what to try."""
    config, plan, data = run.config, run.plan, run.data
    return RunSetting(
        num_workers=plan.num_workers,
        cpus=available_cpus(),
        cache=config.data.get("cache"),
        is_decoded=data.is_decoded,
        pin_memory=config.pin_memory,
        micro_batch_size=plan.micro_batch_size,
        global_batch_size=plan.global_batch_size,
        precision=plan.precision,
        is_cuda=plan.accelerator == "cuda",
        compile_mode=config.compile.mode,
        checkpointing=plan.checkpointing,
        offload=config.optimizer.get("offload"),
        clips=config.trainer.gradient_clip_norm is not None,
        logger=config.logger.name,
    )


def train_with(
    run: ThrowawayRun,
    callback: L.Callback | None,
    *,
    stops: Callable[[], bool] | None = None,
) -> None:
    """Train with a callback that looks on and ends the training.

    Args:
        run: The training.
        callback: Raises or asks the Trainer to stop when it has seen enough.
        stops: Asked after each batch whether to stop.
    """
    own = [c for c in (callback, _stopping(stops)) if c is not None]
    run.fit([*run.callbacks(), *own], max_epochs=_FOREVER)


class _Stopping(L.Callback):
    """Asks after each batch whether to stop."""

    def __init__(self, stops: Callable[[], bool]) -> None:
        self._stops = stops

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        trainer.should_stop = self._stops()


def _stopping(stops: Callable[[], bool] | None) -> L.Callback | None:
    return None if stops is None else _Stopping(stops)
