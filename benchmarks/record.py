"""Results on the disk: figures with their intervals, and everything needed to repeat them."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpuopt
from gpuopt.hardware import available_cpus
from gpuopt.storage import write_json

__all__ = ["RESULTS", "SCHEMA", "Row", "add_common_arguments", "format_rows", "hardware", "save"]

SCHEMA = 1
RESULTS = Path(__file__).parent / "results"
"""Where results are kept."""

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("torch", "torchvision", "lightning", "timm", "hydra-core", "numpy", "pillow")
_COMMON = ("quick", "output")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        measure: What was measured, of what against what.
        setting: Under which conditions, in a few words.
        value: The figure.
        unit: Such as `s`, `images/s` or `ratio`.
        low: Lower bound of the 95 % interval, where there is one.
        high: Upper bound.
        goal: Such as `<= 1.05`, where one was set.
        verdict: `met`, `missed` or `not decided`, where a goal was set.
    """

    measure: str
    setting: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    goal: str | None = None
    verdict: str | None = None


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every program has."""
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder of the result (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny inputs, to test the program; no result"
    )


def save(
    name: str,
    rows: Sequence[Row],
    arguments: argparse.Namespace,
    parser: argparse.ArgumentParser,
    details: Mapping[str, Any],
) -> Path:
    """Write a result as `<name>_<hardware>.json`.

    A result of the same hardware and settings is replaced. One of other hardware or other
    settings stays, and the new file gets a number.

    Args:
        name: The program.
        rows: Its figures.
        arguments: As parsed.
        parser: What parsed them; tells which ones differ from their defaults.
        details: Raw measurements and whatever else helps to judge the figures.

    Raises:
        SystemExit: For a quick run into the folder of the results.
    """
    if arguments.quick and arguments.output.resolve() == RESULTS.resolve():
        parser.error("--quick gives no results to keep: name another folder with --output")
    machine = hardware()
    content = {
        "schema": SCHEMA,
        "name": name,
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(name, arguments, parser),
        "quick": bool(arguments.quick),
        "settings": _settings(arguments),
        "hardware": machine,
        "versions": _versions(),
        "rows": [asdict(row) for row in rows],
        "details": dict(details),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = _free_path(arguments.output, f"{name}_{_slug(machine)}", content)
    write_json(path, content)
    return path


def format_rows(rows: Sequence[Row]) -> str:
    """Lay figures out as a table of plain text."""
    cells = [
        (
            row.measure,
            row.setting,
            f"{row.value:.4g} {row.unit}".strip(),
            f"{row.low:.4g} to {row.high:.4g}" if row.low is not None else "",
            f"goal {row.goal}: {row.verdict}" if row.goal else "",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(5)] if cells else []
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def hardware() -> dict[str, Any]:
    """Describe the machine, without anything that names this one in particular."""
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cpus": available_cpus(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpu": gpu.name if gpu else None,
        "gpu_memory_mib": gpu.total_memory // 2**20 if gpu else None,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _versions() -> dict[str, str | None]:
    import torch

    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "gpuopt": gpuopt.__version__,
        "commit": _commit(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # from PYTHONPATH, without its description
            found[package] = None
    return found


def _commit() -> str | None:
    """Return the commit of the checkout, with `+` when files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", _ROOT, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        return None
    return f"{commit}{'+' if changed else ''}" if commit else None


def _command(name: str, arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    words = ["python", "-m", "benchmarks", name]
    for key, value in vars(arguments).items():
        if key == "output" or value == parser.get_default(key):
            continue
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(arguments).items()
        if key not in _COMMON
    }


def _slug(machine: Mapping[str, Any]) -> str:
    name = machine["gpu"] or f"{machine['cpu']} {machine['cpus']} cpus"
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _free_path(folder: Path, stem: str, content: Mapping[str, Any]) -> Path:
    number = 1
    while True:
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}_{number}.json")
        if not path.exists() or _is_same(path, content):
            return path
        number += 1


def _is_same(path: Path, content: Mapping[str, Any]) -> bool:
    try:
        stored = json.loads(path.read_text("utf-8"))
        return all(stored[key] == content[key] for key in ("hardware", "settings", "quick"))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # not ours, or damaged: it is not for us to overwrite


def _cpu_name() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> int | None:
    if sys.platform != "linux":
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
