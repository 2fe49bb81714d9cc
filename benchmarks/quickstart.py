"""The README's command from nothing: drawing, training and testing, with its scores."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import run_timed
from benchmarks.record import Row, add_common_arguments, format_rows, hardware, save

__all__ = ["COMMAND", "QUICK", "main", "quickstart_rows", "score_rows"]

COMMAND = ("gpu=rtx3060", "tta=essential")
"""The settings of the README's command."""

QUICK = (
    "data=digits",
    "data.test_ratio=0.1",
    "model=timm",
    "model.name=test_vit",
    "model.pretrained=false",
    "image_size=32",
    "trainer.max_epochs=1",
    "trainer.max_steps=2",
    "logger=none",
)
_GOAL_S = 300.0
_GOAL_CPUS = 2
_PARTS = {"data": "drawing and decoding", "training": "training", "test": "testing"}
_IMPORTS = "import gpuopt.entry, gpuopt.worker"


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quickstart", description=__doc__)
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    settings = (*COMMAND, *QUICK) if arguments.quick else COMMAND
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        imports = run_timed([sys.executable, "-c", _IMPORTS], folder)
        places = (f"cache_dir={folder / 'cache'}", f"run={folder / 'run'}")
        done = run_timed([sys.executable, "-m", "gpuopt.train", *settings, *places], folder)
        if done.exit_code or imports.exit_code:
            raise RuntimeError(f"the command failed: {done.last_line or imports.last_line}")
        results = json.loads((folder / "run" / "results.json").read_text("utf-8"))
    rows = quickstart_rows(results, done.duration_s, imports.duration_s, cpus=hardware()["cpus"])
    details = {
        "settings": list(settings),
        **{key: results[key] for key in ("metrics", "training", "durations_s", "plan", "data")},
    }
    path = save("quickstart", rows, arguments, parser, details)
    print(format_rows(rows))
    return path


def quickstart_rows(
    results: Mapping[str, Any], wall_s: float, imports_s: float, *, cpus: int
) -> list[Row]:
    """Split a run's wall time and list its scores.

    Args:
        results: Content of its `results.json`.
        wall_s: Of the whole process.
        imports_s: Of a process that only imports what the command imports.
        cpus: Of the machine; the goal is for two, without a GPU.
    """
    plan, durations_s, metrics = results["plan"], results["durations_s"], results["metrics"]
    setting = (
        f"{results['data']['name']}, {results['model']}, {plan['image_size']} px, "
        f"{plan['accelerator']}, {plan['precision']}"
    )
    counts = plan["accelerator"] == "cpu" and cpus <= _GOAL_CPUS
    goal = f"<= {_GOAL_S:g}" if counts else None
    outcome = ("met" if wall_s <= _GOAL_S else "missed") if counts else None
    rows = [Row("quickstart, all", setting, wall_s, "s", goal=goal, verdict=outcome)]
    rows.append(Row("quickstart, imports", setting, imports_s, "s"))
    rows += [
        Row(f"quickstart, {word}", setting, durations_s[key], "s") for key, word in _PARTS.items()
    ]
    rest_s = wall_s - imports_s - sum(durations_s[key] for key in _PARTS)
    rows.append(Row("quickstart, the rest (forecast, pictures, files)", setting, rest_s, "s"))
    return rows + score_rows(metrics, setting)


def score_rows(metrics: Mapping[str, Any], setting: str) -> list[Row]:
    """List a run's scores without and with views.

    Args:
        metrics: Of its `results.json`.
        setting: What was trained and tested.
    """
    scores = {
        "macro_f1": "macro-F1 without TTA",
        "macro_f1_tta": f"macro-F1 with TTA {metrics['tta']}",
        "macro_f1_difference": "gain of TTA in macro-F1",
    }
    return [
        Row(word, setting, metrics[key]["value"], "", metrics[key]["low"], metrics[key]["high"])
        for key, word in scores.items()
    ]
