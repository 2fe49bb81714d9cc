"""Predicted against measured time of test-time augmentation, at sizes and views not fitted to."""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import run_timed
from benchmarks.record import Row, add_common_arguments, format_rows, save
from benchmarks.step_setting import MemoryImages, StepSetting, affordable_workers, draw_bank
from gpuopt.config import compose_settings
from gpuopt.hardware import load_catalogue, select_gpu
from gpuopt.model import Classifier
from gpuopt.schema import CONF_DIR
from gpuopt.session.device import cuda_properties
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.tta_timing import PassTimer, measure_tta_time
from gpuopt.tta.time_model import TtaTime
from gpuopt.tta.views import View, parse_views

__all__ = ["Cell", "cell_rows", "main"]

_GOAL = "<= 0.05"
_LIMIT = 0.05
_POLICIES = ("none", "legacy", "essential", "comprehensive", "doc15")
# Their numbers of views, 3 and 15, are none that the time is fitted to.
_MEASURED = ("legacy", "comprehensive", "doc15")


@dataclass(frozen=True)
class Cell:
    """One prediction of a time.

    Attributes:
        setting: Of what.
        predicted_s: Before.
        measured_s: Median of the repeats.
        low_ratio: Lower end of what was said, over the prediction.
        high_ratio: Upper end.
    """

    setting: str
    predicted_s: float
    measured_s: float
    low_ratio: float
    high_ratio: float

    @property
    def error_ratio(self) -> float:
        """Measured over predicted, less one."""
        return self.measured_s / self.predicted_s - 1.0

    @property
    def is_in_range(self) -> bool:
        """Whether the measured time lies in what was said."""
        return self.low_ratio <= self.measured_s / self.predicted_s <= self.high_ratio


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tta_time", description=__doc__)
    add_common_arguments(parser)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["tf_efficientnet_lite0:128", "resnet50:224", "convnext_base:384"],
        help="timm names with the image size (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batch-size", type=int, default=0, help="0: 256 on a GPU, 32 on a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="of each measured prediction")
    parser.add_argument(
        "--seconds",
        nargs="+",
        type=float,
        default=[2.0, 12.0],
        help="about how long the measured predictions take (default: %(default)s)",
    )
    parser.add_argument(
        "--run", type=Path, help="also time whole `gpuopt predict` commands of this trained run"
    )
    arguments = parser.parse_args(words)
    budget_s = 15.0
    if arguments.quick:
        arguments.models, arguments.repeats, arguments.batch_size = ["test_efficientnet:32"], 1, 4
        arguments.seconds, budget_s = [0.1], 0.1
    cells: list[Cell] = []
    times: dict[str, Any] = {}
    path = arguments.output

    def keep() -> None:
        nonlocal path
        rows = cell_rows(cells, is_gpu=_is_cuda(arguments.device))
        path = save("tta_time", rows, arguments, parser, {"time": times})
        print(format_rows(rows), flush=True)

    for name in arguments.models:
        model_name, _, size = name.rpartition(":")
        setting = _setting(model_name, int(size), arguments.device, arguments.batch_size)
        print(f"{setting}: fitted, then predicted and measured", flush=True)
        found, time = _model_cells(setting, arguments.seconds, arguments.repeats, budget_s)
        cells += found
        times[str(setting)] = time.as_dict()
        keep()  # after each: the time on a device may end
    if arguments.run is not None:
        cells += _command_cells(arguments.run)
        keep()
    return Path(path)


def _model_cells(
    setting: StepSetting, lengths_s: Sequence[float], repeats: int, budget_s: float
) -> tuple[list[Cell], TtaTime]:
    """Fit the time of a model and compare it with predictions of other sizes and views.

    Args:
        setting: Model, device, batch and precision.
        lengths_s: About how long each measured prediction takes, which decides its images.
        repeats: Of each measured prediction.
        budget_s: For the fit.
    """
    data = MemoryImages(draw_bank(setting.image_size), setting, steps=1)
    model = Classifier(setting.model, setting.num_classes).eval().to(setting.device)
    timer = PassTimer(model, data, _prediction_setup(setting), setting.micro_batch_size)
    policies = {
        name: parse_views(compose_settings("predict", [f"tta={name}"])["tta"]["views"])
        for name in _POLICIES
    }
    views = dict.fromkeys(View(v.operations) for seen in policies.values() for v in seen)
    time = measure_tta_time(timer, list(views), budget_s=budget_s)
    cells = []
    with timer.setup.applied():
        for length_s in lengths_s:
            for name in _MEASURED:
                seen = policies[name]
                one_s = time.seconds(1, seen).value - time.seconds(0, seen).value
                images = 1 + int(length_s / one_s)
                measured = [timer(images, seen).seconds for _ in range(repeats)]
                words = f"{setting.model} {setting.image_size} px, {images} images x {name}"
                cells.append(
                    Cell(
                        f"{words}, {setting.precision}, {setting.device}",
                        time.seconds(images, seen).value - time.startup_s,
                        statistics.median(measured),
                        time.low_ratio,
                        time.high_ratio,
                    )
                )
    return cells, time


def _command_cells(run: Path) -> list[Cell]:
    """Compare what `gpuopt recommend_tta` says with whole `gpuopt predict` commands."""
    cells = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [sys.executable, "-m", "gpuopt.recommend_tta", f"run={run.absolute()}"]
        done = run_timed([*words, f"cache_dir={folder / 'cache'}"], folder)
        if done.exit_code:
            raise RuntimeError(f"the command failed: {done.last_line}")
        (found,) = folder.glob("outputs/recommend_tta/*/recommendation.json")
        answer = json.loads(found.read_text("utf-8"))
        for policy in answer["policies"]:
            if not policy["is_preset"]:
                continue
            tta = f"tta={policy['name']}"
            words = [
                sys.executable,
                "-m",
                "gpuopt.predict",
                f"run={run.absolute()}",
                tta,
                "engine=eager",
            ]
            done = run_timed([*words, f"cache_dir={folder / 'cache'}"], folder)
            minutes = policy["minutes"]
            cells.append(
                Cell(
                    f"gpuopt predict {tta}, {answer['images']} images, {answer['model']}",
                    60 * minutes["value"],
                    done.duration_s,
                    minutes["low"] / minutes["value"],
                    minutes["high"] / minutes["value"],
                )
            )
    return cells


def cell_rows(cells: Sequence[Cell], *, is_gpu: bool) -> list[Row]:
    """Turn cells into figures; the goal is one for GPUs, whose time does not scatter."""
    rows = []
    for cell in cells:
        error = abs(cell.error_ratio)
        rows += [
            Row("measured time of a prediction", cell.setting, cell.measured_s, "s"),
            Row(
                "its prediction",
                cell.setting,
                cell.predicted_s,
                "s",
                low=min(1.0, cell.low_ratio) * cell.predicted_s,
                high=max(1.0, cell.high_ratio) * cell.predicted_s,
            ),
            Row(
                "error of the predicted time",
                cell.setting,
                error,
                "ratio",
                goal=_GOAL if is_gpu else None,
                verdict=("met" if error <= _LIMIT else "missed") if is_gpu else None,
            ),
        ]
    inside = sum(cell.is_in_range for cell in cells)
    setting = f"{len(cells)} predictions"
    return [*rows, Row("measured times within what was said", setting, inside, "predictions")]


def _is_cuda(device: str) -> bool:
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def _setting(model: str, image_size: int, device: str, batch_size: int) -> StepSetting:
    is_cuda = _is_cuda(device)
    batch = batch_size or (256 if is_cuda else 32)
    return StepSetting(
        model,
        image_size,
        batch,
        batch,
        "bf16" if is_cuda else "fp32",
        "cuda" if is_cuda else "cpu",
        workers=affordable_workers("cuda" if is_cuda else "cpu", image_size, batch),
    )


def _prediction_setup(setting: StepSetting) -> PredictionSetup:
    catalogue = load_catalogue(CONF_DIR / "gpu")
    preset = catalogue["auto" if setting.device == "cuda" else "cpu"]
    gpu, choice = select_gpu(preset, cuda_properties(preset, 1), catalogue)
    return PredictionSetup(
        setting.device,
        gpu,
        setting.precision,
        setting.micro_batch_size,
        setting.workers,
        (choice,),
    )
