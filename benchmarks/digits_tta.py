"""What test-time augmentation does to images whose training knew no turns: real digits."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import run_timed
from benchmarks.quickstart import QUICK, score_rows
from benchmarks.record import add_common_arguments, format_rows, save

__all__ = ["COMMAND", "main"]

COMMAND = ("data=digits", "gpu=cpu", "tta=essential")
_QUICK = (*COMMAND, *QUICK)


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks digits_tta", description=__doc__)
    add_common_arguments(parser)
    arguments = parser.parse_args(words)
    settings = _QUICK if arguments.quick else COMMAND
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "gpuopt.train", *settings, f"run={folder / 'run'}"]
        done = run_timed(command, folder)
        if done.exit_code:
            raise RuntimeError(f"the command failed: {done.last_line}")
        results = json.loads((folder / "run" / "results.json").read_text("utf-8"))
    setting = f"{results['data']['name']}, {results['model']}, trained without turns, one run"
    rows = score_rows(results["metrics"], setting)
    details = {"settings": list(settings), "metrics": results["metrics"], "plan": results["plan"]}
    path = save("digits_tta", rows, arguments, parser, details)
    print(format_rows(rows))
    return path
