"""What a run leaves behind for people and programs: results.json, pictures, TensorBoard."""

import platform
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from gpuopt import __version__
from gpuopt.choice import Choice
from gpuopt.data import ImageDataModule
from gpuopt.report import save_png, write_predictions_csv
from gpuopt.session.calibrating import RunCalibration
from gpuopt.session.contest import SUBMISSION, contest_of_data, write_submission
from gpuopt.session.evaluation import Evaluation
from gpuopt.session.plan import Plan
from gpuopt.session.scalar_logs import EventLog
from gpuopt.session.sweep_folder import swept_settings

__all__ = ["SCHEMA", "assemble_results", "describe_machine", "log_results", "write_artifacts"]

SCHEMA = 1
_PACKAGES = ("torch", "torchvision", "lightning", "timm", "hydra-core", "numpy", "pillow")
_MOST_REJECTED_NAMED = 100


def assemble_results(
    *,
    plan: Plan,
    model: str,
    data: ImageDataModule,
    policy: str,
    evaluation: Evaluation,
    calibration: RunCalibration | None,
    training: Mapping[str, Any],
    durations_s: Mapping[str, float],
    choices: Sequence[Choice],
) -> dict[str, Any]:
    """Gather everything that a later reader needs to trust or repeat a run.

    Returns:
        Plain values, with a schema number that changes when a key changes its meaning.
    """
    rejected = data.rejected
    made = [calibration.choice] if calibration else []
    return {
        "schema": SCHEMA,
        "state": "finished",
        "data": {
            "name": type(data).__name__,
            "classes": data.num_classes,
            "train_images": data.train_size,
            "validation_images": data.validation_size,
            "test_images": data.test_size,
            "tested_on": evaluation.tested_on,
            "scored_images": int(evaluation.known.sum()),
            "fingerprint": data.fingerprint,
            "rejected_images": len(rejected),
            "rejected": [
                {"path": str(r.path), "reason": r.reason} for r in rejected[:_MOST_REJECTED_NAMED]
            ],
        },
        "model": model,
        "metrics": _metrics(evaluation, policy),
        "training": dict(training),
        "durations_s": {name: round(value, 3) for name, value in durations_s.items()},
        "plan": {
            "accelerator": plan.accelerator,
            "gpu": plan.gpu.name,
            "precision": plan.precision,
            "image_size": plan.image_size,
            "global_batch_size": plan.global_batch_size,
            "global_batch_schedule": {str(e): n for e, n in plan.global_batch_changes.items()},
            "learning_rate": plan.learning_rate,
            "micro_batch_size": plan.micro_batch_size,
            "accumulate_grad_batches": plan.accumulate_grad_batches,
            "checkpointing": plan.checkpointing,
            "devices": plan.devices,
            "num_workers": plan.num_workers,
        },
        "calibration": calibration.as_dict() if calibration else None,
        "choices": [asdict(choice) for choice in (*choices, *made)],
        "machine": describe_machine(),
    }


def describe_machine() -> dict[str, Any]:
    """Describe hardware and versions; nothing from the environment that could be a secret."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "versions": {"gpuopt": __version__, **{name: version(name) for name in _PACKAGES}},
    }


def write_artifacts(
    folder: Path, evaluation: Evaluation, data: ImageDataModule, figures: Mapping[str, Figure]
) -> None:
    """Write predictions of the test images and pictures into the run folder.

    A contest's test images, whose classes are unknown, also give a `submission.csv`.

    Args:
        folder: The run folder.
        evaluation: The scores.
        data: Names the images.
        figures: By file name without ending.
    """
    predictions = evaluation.test_predictions
    names = data.test_ids
    ids = [names[row] for row in predictions.ids]
    write_predictions_csv(
        folder / "predictions.csv",
        ids,
        predictions.probabilities,
        data.class_names,
        predictions.targets.tolist(),
    )
    if (contest := contest_of_data(data)) is not None:
        write_submission(folder / SUBMISSION, ids, predictions.classes, contest)
    for name, figure in figures.items():
        save_png(figure, folder / f"{name}.png")


def log_results(
    logger: Logger | None,
    config: Mapping[str, Any],
    evaluation: Evaluation,
    figures: Mapping[str, Figure],
    step: int,
    learning_rate: float | None = None,
) -> None:
    """Send pictures, the configuration and the hparams row to TensorBoard.

    The row of a sweep's job also holds the settings that the sweep varies.
    """
    if not isinstance(logger, EventLog) or logger.has_failed:
        return
    scores = {
        "test/f1": evaluation.macro_f1.value,
        "test/f1_tta": evaluation.tta_macro_f1.value,
        "test/accuracy": evaluation.accuracy.value,
        "test/accuracy_tta": evaluation.tta_accuracy.value,
    }
    with logger.tolerated():
        writer = logger.experiment
        for name, figure in figures.items():
            writer.add_figure(f"test/{name}", figure, global_step=step, close=False)
        text = yaml.safe_dump(dict(config), sort_keys=False)
        writer.add_text("config", f"```yaml\n{text}\n```")
    compared = {**swept_settings(Path(logger.save_dir)), **_hyperparameters(config)}
    if learning_rate is not None:  # by a rule, from the one in the configuration
        compared["learning_rate"] = learning_rate
    logger.log_hyperparams(compared, scores)
    logger.log_metrics(scores, step=step)
    logger.finalize("success")


def _metrics(evaluation: Evaluation, policy: str) -> dict[str, Any]:
    return {
        "interval": "95 % bootstrap",
        "tta": policy,
        "macro_f1": evaluation.macro_f1.as_dict(),
        "accuracy": evaluation.accuracy.as_dict(),
        "macro_f1_tta": evaluation.tta_macro_f1.as_dict(),
        "accuracy_tta": evaluation.tta_accuracy.as_dict(),
        "macro_f1_difference": evaluation.difference.as_dict(),
        "accuracy_difference": evaluation.accuracy_difference.as_dict(),
        "macro_f1_by_condition": {
            name: {"without_tta": without.as_dict(), "with_tta": merged.as_dict()}
            for name, (without, merged) in evaluation.groups.items()
        },
    }


def _hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what people compare runs by."""
    return {
        "model": config["model"]["name"],
        "learning_rate": config["model"]["learning_rate"],
        "image_size": config["image_size"],
        "global_batch_size": config["global_batch_size"],
        "micro_batch_size": config["micro_batch_size"],
        "max_epochs": config["trainer"]["max_epochs"],
        "mode": config["mode"],
        "precision": config["precision"]["name"],
        "seed": config["seed"],
        "tta": config["tta"]["name"],
    }
