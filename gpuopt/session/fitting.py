"""Put a Lightning Trainer together for one run, and fit."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from gpuopt.callbacks import (
    DurableCheckpoint,
    EpochSummary,
    ExactResume,
    GlobalBatchSchedule,
    LossBar,
    NonFiniteLoss,
    Preemption,
    ScalerSteps,
    StepLog,
)
from gpuopt.data import ImageDataModule
from gpuopt.hardware import lightning_precision
from gpuopt.model import Classifier
from gpuopt.parallel.group import group_backend, join_group, leave_group
from gpuopt.parallel.rank import ALONE, Rank
from gpuopt.session.plan import Plan
from gpuopt.session.weights import describe_model
from gpuopt.storage import write_json
from gpuopt.storage.checkpoint_io import DurableCheckpointIO

__all__ = ["FitSettings", "Fitted", "fit", "make_trainer"]

_LOGS_PER_EPOCH = 10
# How long a rank waits for another: while the first one saves, say, or decodes on a slow disk.
_RANK_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class FitSettings:
    """How to train, apart from what depends on the machine.

    Attributes:
        max_epochs: Passes over the training data.
        max_steps: Optimizer steps at most; -1 for no limit.
        gradient_clip_norm: Largest norm of the gradient, or None.
        log_every_n_steps: Optimizer steps between two log entries; None: about ten times an epoch.
        deterministic: Use only deterministic kernels.
    """

    max_epochs: int
    max_steps: int = -1
    gradient_clip_norm: float | None = None
    log_every_n_steps: int | None = None
    deterministic: bool = False


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves behind.

    Attributes:
        trainer: After `fit`.
        checkpoint: Knows the best epoch and where its weights are.
        summary: Holds the measured forecast.
    """

    trainer: L.Trainer
    checkpoint: DurableCheckpoint
    summary: EpochSummary


class _ModelDescription(L.Callback):
    """Writes into each checkpoint what is needed to use it without its run folder."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._description = dict(description)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["gpuopt"] = self._description


def fit(
    plan: Plan,
    settings: FitSettings,
    model: Classifier,
    data: ImageDataModule,
    *,
    folder: Path,
    checkpoint: DurableCheckpoint,
    callbacks: Sequence[L.Callback] = (),
    logger: Logger | None = None,
    resume_from: Path | None = None,
    rank: Rank = ALONE,
) -> Fitted:
    """Train a model, or go on with a checkpoint.

    Args:
        plan: What the machine decided.
        settings: What the user decided.
        model: The classifier.
        data: Its data, set up.
        folder: Where `bad_batch.json` goes when the loss is not finite.
        checkpoint: Saves the states.
        callbacks: Further ones, such as statistics and averaging.
        logger: Where scalars go.
        resume_from: A checkpoint to go on with.
        rank: This process's place among those that train together. They have parted again when
            this returns: what follows is the work of one.

    Raises:
        PreemptedError: When a signal asked to stop; the checkpoint is saved.
        FaultError: When the loss is not finite or the disk is full.
    """
    summary, step_log = EpochSummary(), StepLog()
    always: list[L.Callback] = [
        ExactResume(),
        _ModelDescription(describe_model(model, data.class_names, plan.image_size)),
        NonFiniteLoss(lambda step, batch: _report_batch(folder, data, step, batch)),
        step_log,
        ScalerSteps(),
        summary,
        checkpoint,
        Preemption(checkpoint),
    ]
    if plan.global_batch_changes:
        always.append(
            GlobalBatchSchedule(
                plan.global_batch_size,
                plan.global_batch_changes,
                learning_rate_rule=plan.learning_rate_rule,
            )
        )
    has_terminal = sys.stderr.isatty()
    if has_terminal:
        always.append(LossBar(step_log))
    trainer = make_trainer(
        plan,
        settings,
        [*callbacks, *always],
        steps_per_epoch=math.ceil(data.train_size / plan.global_batch_size),
        folder=folder,
        logger=logger,
        rank=rank,
        shows_progress=has_terminal,
    )
    join_group(rank, group_backend(plan.accelerator), _RANK_TIMEOUT)
    trainer.fit(model, datamodule=data, ckpt_path=resume_from)
    if rank.world_size > 1:
        leave_group()
        data.trainer = None  # which would deal out a share of the test images only
    return Fitted(trainer, checkpoint, summary)


def make_trainer(
    plan: Plan,
    settings: FitSettings,
    callbacks: Sequence[L.Callback],
    *,
    steps_per_epoch: int,
    folder: Path,
    logger: Logger | None = None,
    rank: Rank = ALONE,
    shows_progress: bool = False,
    trains_only: bool = False,
) -> L.Trainer:
    """Make the Trainer of a run.

    Args:
        plan: What the machine decided.
        settings: What the user decided.
        callbacks: All of them.
        steps_per_epoch: Optimizer steps.
        folder: Where files go.
        logger: Where scalars go.
        rank: This process's place among those that train together.
        shows_progress: Whether one of the callbacks is a progress bar, or Lightning's is to show.
        trains_only: Neither validate nor save anything.
    """
    trainer = L.Trainer(
        accelerator="gpu" if plan.accelerator == "cuda" else "cpu",
        devices=rank.local_world_size,
        num_nodes=rank.hosts,
        strategy=_strategy(plan),
        precision=lightning_precision(plan.precision),
        max_epochs=settings.max_epochs,
        max_steps=settings.max_steps,
        accumulate_grad_batches=plan.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_norm,
        deterministic=settings.deterministic,
        log_every_n_steps=settings.log_every_n_steps or max(1, steps_per_epoch // _LOGS_PER_EPOCH),
        callbacks=list(callbacks),
        plugins=[DurableCheckpointIO(), _surroundings(rank)],
        logger=logger or False,
        use_distributed_sampler=False,  # the data module deals its batches out itself
        num_sanity_val_steps=0,
        limit_val_batches=0 if trains_only else None,
        enable_checkpointing=not trains_only,
        enable_model_summary=False,
        enable_progress_bar=shows_progress,
        default_root_dir=folder,
    )
    _take_signals_from(trainer)
    return trainer


def _strategy(plan: Plan) -> Strategy | str:
    if plan.devices == 1:
        return "auto"
    return DDPStrategy(
        process_group_backend=group_backend(plan.accelerator),
        find_unused_parameters=False,
        timeout=_RANK_TIMEOUT,
    )


def _surroundings(rank: Rank) -> ClusterEnvironment:
    """Tell Lightning who started this process, which it would guess from a scheduler's variables.

    A task of SLURM is a run of its own, however many tasks there are and whichever this one is.
    """
    if rank.world_size > 1:
        return TorchElasticEnvironment()
    alone = LightningEnvironment()
    alone.set_global_rank(0)  # else `SLURM_PROCID` decides who logs
    return alone


def _take_signals_from(trainer: L.Trainer) -> None:
    """Leave signals to `Preemption`, or to the command.

    Lightning sends a broadcast from inside its handler, which deadlocks, and with several ranks
    asks all of them before each batch, which makes a GPU wait.
    """
    connector: Any = trainer._signal_connector  # methods of one object are replaced, not typed so
    epoch_loop: Any = trainer.fit_loop.epoch_loop
    connector.register_signal_handlers = lambda: None
    epoch_loop._broadcast_sigterm_tensor = lambda: None


def _report_batch(folder: Path, data: ImageDataModule, step: int, batch: Any) -> None:
    names = data.train_ids
    samples = [names[row] for row in batch.ids.tolist()]
    write_json(folder / "bad_batch.json", {"schema": 1, "step": step, "samples": samples})
