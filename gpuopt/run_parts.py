"""From the settings of a training to its parts: plan, data and model, and what torch is set to."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from gpuopt.build import build
from gpuopt.data import ImageDataModule
from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.measure import Stopwatch
from gpuopt.model import Classifier
from gpuopt.parallel.rank import Rank
from gpuopt.schema import CONF_DIR, TrainConfig
from gpuopt.session.compilation import compile_backbone, may_accumulate
from gpuopt.session.device import torch_settings
from gpuopt.session.plan import Plan, make_plan
from gpuopt.session.precision_check import settle_precision

__all__ = [
    "RunParts",
    "build_data",
    "build_model",
    "build_parts",
    "plan_run",
    "process_settings",
    "total_steps",
]


@dataclass(frozen=True)
class RunParts:
    """What is trained and how.

    Attributes:
        plan: With every choice that is made before the first step.
        model: With its first weights.
        data: Opened.
        precision_probe: What trying the precision found, for `results.json`.
        data_s: How long opening the data took.
    """

    plan: Plan
    model: Classifier
    data: ImageDataModule
    precision_probe: Any
    data_s: float


def build_parts(config: TrainConfig, plan: Plan, rank: Rank, folder: Path) -> RunParts:
    """Open the data, build the model, try the precision, and settle the loader.

    Args:
        config: The checked settings.
        plan: Of `plan_run`.
        rank: This process's place among those that train together.
        folder: Where the precision's trial leaves its notes.

    Raises:
        InputError: For data that cannot be read, or a model that does not fit them.
    """
    with Stopwatch() as data_time:
        data = build_data(config, plan)
    model = build_model(config, plan, data)
    is_cuda = plan.accelerator == "cuda"
    settled = settle_precision(
        plan,
        model,
        data,
        requested=config.precision.name,
        tries=config.precision_probe,
        folder=folder,
        device=torch.device("cuda", rank.local_number) if is_cuda else torch.device("cpu"),
        plan_for=lambda precision: plan_run(config, rank, precision),
    )
    plan = settled.plan.with_workers(
        config.num_workers,
        decoded=data.is_decoded,
        ranks=rank.local_world_size,
        prefetch_factor=config.prefetch_factor,
    )
    data.num_workers, data.prefetch_factor = plan.num_workers, config.prefetch_factor
    if config.model.get("channels_last") == "auto":
        plan = plan.with_choice(model.channels_last_choice())
    return RunParts(plan, model, data, settled.probe, data_time.duration_s)


def plan_run(config: TrainConfig, rank: Rank, precision: str | None = None) -> Plan:
    """Plan a run on the device of this process.

    Args:
        config: The checked settings.
        rank: This process's place among those that train together.
        precision: Instead of the one in the settings.

    Raises:
        InputError: When other devices are asked for than processes were started.
    """
    if config.trainer.devices != rank.world_size:
        raise InputError(
            f"the run has trainer.devices={config.trainer.devices} and {rank.world_size} "
            "process(es) were started: start as many, or a new run"
        )
    assert config.global_batch_size is not None  # settle_batch_sizes made it definite
    return make_plan(
        preset=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        model=config.model,
        precision=precision or config.precision.name,
        image_size=config.image_size,
        micro_batch_size=config.micro_batch_size,
        global_batch_size=config.global_batch_size,
        devices=config.trainer.devices,
        device_index=rank.local_number,
        local_devices=rank.local_world_size,
        optimizer=config.optimizer,
        moving_average=bool(config.callbacks.get("moving_average", {}).get("enabled")),
        clips_gradients=config.trainer.gradient_clip_norm is not None,
        cache_dir=config.cache_dir,
        global_batch_changes=config.global_batch_schedule,
        learning_rate_rule=config.learning_rate_rule,
        learning_rate_reference_batch=config.learning_rate_reference_batch,
    )


@contextlib.contextmanager
def process_settings(config: TrainConfig, plan: Plan, rank: Rank) -> Iterator[None]:
    """Seed, and set what PyTorch only has once per process; given back afterwards."""
    # Lightning 2.6 asks an old question of PyTorch's pytree on every fit.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # It advises srun wherever that is installed, and does not know that gpuopt starts the ranks.
    warnings.filterwarnings("ignore", message=r"The `srun` command is available.*")
    L.seed_everything(config.seed, workers=True, verbose=False)
    with torch_settings(
        precision=plan.precision,
        memory_limit_mib=plan.gpu.memory_limit_mib,
        deterministic=config.trainer.deterministic,
        accelerator=plan.accelerator,
        device_index=rank.local_number,
    ):
        yield


def build_data(config: TrainConfig, plan: Plan) -> ImageDataModule:
    """Build the data and open them; raises `InputError` for what cannot be read."""
    data = build(
        config.data,
        "data",
        image_size=plan.image_size,
        micro_batch_size=plan.micro_batch_size,
        global_batch_size=plan.global_batch_size,
        pin_memory=config.pin_memory and plan.accelerator == "cuda",
        seed=config.seed,
        folds=config.folds,
        fold=config.fold,
        cache_dir=config.cache_dir,
    )
    if not isinstance(data, ImageDataModule):
        raise InputError(f"data._target_ is no ImageDataModule but {type(data).__name__}")
    data.prepare_data()
    data.setup()
    return data


def total_steps(config: TrainConfig, plan: Plan, data: ImageDataModule) -> int:
    """Count the optimizer steps of the whole training."""
    steps = plan.global_batches.steps(data.train_size, config.trainer.max_epochs)
    return min(steps, config.trainer.max_steps) if config.trainer.max_steps > 0 else steps


def build_model(config: TrainConfig, plan: Plan, data: ImageDataModule) -> Classifier:
    """Build the classifier with its optimizer and schedule; compiled if the settings say so."""
    scaled = {} if plan.learning_rate is None else {"learning_rate": plan.learning_rate}
    model = build(
        config.model,
        "model",
        num_classes=data.num_classes,
        checkpointing=plan.checkpointing,
        optimizer=build(config.optimizer, "optimizer"),
        scheduler=build(config.scheduler, "scheduler"),
        global_batch_size=plan.global_batch_size,
        total_steps=total_steps(config, plan, data),
        **scaled,
    )
    if not isinstance(model, Classifier):
        raise InputError(f"model._target_ is no gpuopt Classifier but {type(model).__name__}")
    compile_backbone(
        model,
        config.compile.mode,
        config.compile.backend,
        accumulates=may_accumulate(plan, config.callbacks, config.micro_batch_size),
    )
    return model
