"""What a run prints: its plan before, its scores after."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gpuopt.measure import duration_text
from gpuopt.recomputation import NONE
from gpuopt.report import PlanRow, ResultRow, plan_table, results_table
from gpuopt.tta import TestTimeAugmentation

if TYPE_CHECKING:
    from gpuopt.data import ImageDataModule
    from gpuopt.session.evaluation import Evaluation
    from gpuopt.session.plan import Plan

__all__ = ["make_console", "make_teller", "print_plan", "print_results"]

_log = logging.getLogger(__name__)

_WIDTH_OF_FILES = 110


def make_console() -> Console:
    """Make a console; into a file or pipe tables are as wide as a usual window."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES, highlight=False)


def make_teller() -> Callable[[str], None]:
    """Return what prints one line as it is: whole, and without markup."""
    console = make_console()
    return lambda line: console.print(line, soft_wrap=True, markup=False)


def print_plan(
    console: Console,
    plan: "Plan",
    *,
    model: str,
    data_name: str,
    data: "ImageDataModule",
    steps: int,
    policy: TestTimeAugmentation,
    forecast_s: float | None,
) -> None:
    """Print what will be done, and log every automatic choice with its reason.

    Args:
        console: Where to.
        plan: What the machine decided.
        model: Its name and where its weights come from.
        data_name: For people.
        data: Its sizes are shown.
        steps: Optimizer steps of the whole training.
        policy: The test-time augmentation.
        forecast_s: Predicted duration of training, if there is one.
    """
    per_epoch = [math.ceil(data.train_size / size) for size in plan.global_batches.sizes.values()]
    batch = (
        f"{plan.micro_batch_size} x {plan.devices} device x {plan.accumulate_grad_batches} "
        f"accumulated = {plan.global_batch_size} per step"
    )
    views = len(policy.views)
    evidence = {choice.key: choice.evidence for choice in plan.choices}
    rows = [
        PlanRow("model", model),
        PlanRow("data", f"{data_name}: {_sizes(data)}, {data.num_classes} classes"),
        *_left_out(data),
        PlanRow("device", f"{plan.accelerator} ({plan.gpu.name})", evidence.get("gpu", "")),
        PlanRow("precision", plan.precision, evidence.get("precision", "")),
        PlanRow("image size", f"{plan.image_size} px", evidence.get("image_size", "")),
        PlanRow("batch", batch, evidence.get("micro_batch_size", "")),
        PlanRow("steps", f"{steps}, {', then '.join(map(str, per_epoch))} per epoch"),
        PlanRow("TTA", policy.name if policy.is_single_view else f"{policy.name}, {views} views"),
    ]
    if plan.global_batch_changes:
        later = [f"{n} from epoch {e + 1}" for e, n in plan.global_batch_changes.items()]
        batch_row = next(i for i, row in enumerate(rows) if row.label == "batch")
        rows.insert(batch_row + 1, PlanRow("batch later", ", ".join(later), "given"))
    if plan.learning_rate is not None:
        rule = next(c for c in plan.choices if c.key == "learning_rate_rule")
        rows.append(PlanRow("learning rate", f"{rule.value}: {rule.reason}", rule.evidence))
    if plan.checkpointing != NONE:
        level = PlanRow(
            "checkpointing", plan.checkpointing, evidence.get("model.checkpointing", "")
        )
        rows.append(level)
    if forecast_s is not None:
        rows.append(PlanRow("training", f"about {duration_text(forecast_s)}", "predicted"))
    console.print(plan_table(rows))
    for choice in plan.choices:
        if choice.evidence != "given" or choice.key == "gpu":
            _log.info("%s", choice)


def _sizes(data: "ImageDataModule") -> str:
    sizes = f"{data.train_size} train, {data.validation_size} validation"
    return f"{sizes}, {data.test_size} test" if data.has_test_set else f"{sizes} and test"


def _left_out(data: "ImageDataModule") -> list[PlanRow]:
    """Name an image that cannot be read, if there are any."""
    if not data.rejected:
        return []
    count, first = len(data.rejected), data.rejected[0]
    others = "" if count == 1 else f" and {count - 1} more unreadable images, see results.json"
    return [PlanRow("left out", f"{first.path} ({first.reason}){others}", "measured")]


def print_results(
    console: Console,
    evaluation: "Evaluation",
    data_name: str,
    policy: TestTimeAugmentation,
    folder: Path,
) -> None:
    """Print scores with their intervals, on which images, and where everything lies."""
    scores = (
        ("macro-F1", evaluation.macro_f1, evaluation.tta_macro_f1, evaluation.difference),
        ("accuracy", evaluation.accuracy, evaluation.tta_accuracy, evaluation.accuracy_difference),
    )
    rows = [
        ResultRow(name, single) if policy.is_single_view else ResultRow(name, single, merged, gain)
        for name, single, merged, gain in scores
    ]
    title = f"Test on {data_name}"
    if evaluation.tested_on == "validation":
        title = f"Validation on {data_name}"
    console.print(results_table(rows, title=title, policy=policy.name))
    if evaluation.unlabelled is not None:
        count = len(evaluation.unlabelled.ids)
        console.print(f"no class of the {count} test images is known: they are only predicted")
    console.print(f"results in {folder}", soft_wrap=True, markup=False)
