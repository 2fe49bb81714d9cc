"""A training step on a CPU that keeps the memory it frees, against the same step that does not."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.record import Row, add_common_arguments, format_rows, save
from gpuopt.measure.pairs import abba_orders, paired_ratio

__all__ = ["freed_memory_rows", "main", "measure_step"]

_KEPT, _FREED = "memory kept", "memory given back"
_ROOT = Path(__file__).parent.parent


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.model, arguments.image_size, arguments.batch_size = "test_resnet", 32, 4
        arguments.processes, arguments.steps, arguments.warmup_steps = 2, 2, 1
    runs: dict[str, list[dict[str, float]]] = {_KEPT: [], _FREED: []}
    for order in abba_orders((_KEPT, _FREED), arguments.processes):
        for name in order:
            runs[name].append(_in_own_process(name == _KEPT, arguments))
    setting = f"{arguments.model} {arguments.image_size} px, batch {arguments.batch_size}, fp32"
    rows = freed_memory_rows(runs, setting)
    print(format_rows(rows))
    return save("freed_memory", rows, arguments, parser, {"runs": runs})


def measure_step(
    model: str, image_size: int, batch_size: int, steps: int, warmup_steps: int
) -> dict[str, float]:
    """Train on random images in this process, and return medians over the steps.

    Args:
        model: timm model name.
        image_size: Side in pixels.
        batch_size: Images of a step.
        steps: Timed ones.
        warmup_steps: Untimed ones before them.

    Returns:
        `step_s`, `page_faults` of a step, and `peak_gib`, the process' largest resident memory.
    """
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=17).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = torch.rand(batch_size, 3, image_size, image_size)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(17, (batch_size,))
    step_s, faults = [], []
    for _ in range(warmup_steps + steps):
        faults_before, began_s = _page_faults(), time.perf_counter()
        torch.autograd.backward(torch.nn.functional.cross_entropy(network(images), targets))
        optimizer.step()
        optimizer.zero_grad()
        step_s.append(time.perf_counter() - began_s)
        faults.append(_page_faults() - faults_before)
    return {
        "step_s": statistics.median(step_s[warmup_steps:]),
        "page_faults": statistics.median(faults[warmup_steps:]),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def freed_memory_rows(runs: Mapping[str, Sequence[Mapping[str, float]]], setting: str) -> list[Row]:
    """Turn what the processes measured into medians and the ratio of their steps."""
    rows = []
    for name, found in runs.items():
        for key, measure, unit, factor in (
            ("step_s", "step", "ms", 1000.0),
            ("page_faults", "page faults of a step", "", 1.0),
            ("peak_gib", "peak resident memory", "GiB", 1.0),
        ):
            value = factor * statistics.median(run[key] for run in found)
            rows.append(Row(f"{measure}, {name}", setting, value, unit))
    kept, freed = ([run["step_s"] for run in runs[name]] for name in (_KEPT, _FREED))
    speed = paired_ratio(freed, kept)
    rows.append(
        Row("speed, memory kept / given back", setting, speed.ratio, "ratio", speed.low, speed.high)
    )
    return rows


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _in_own_process(kept: bool, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure in a fresh process: what is kept stays kept for as long as a process lives."""
    settings = {
        key: getattr(arguments, key)
        for key in ("model", "image_size", "batch_size", "steps", "warmup_steps")
    }
    code = (
        "import json, sys\n"
        "from benchmarks.freed_memory import measure_step\n"
        "from gpuopt.hardware import keep_freed_memory\n"
        f"assert not {kept} or keep_freed_memory()\n"
        "print(json.dumps(measure_step(**json.loads(sys.argv[1]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks freed_memory", description=__doc__)
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm model")
    parser.add_argument("--image-size", type=int, default=128, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--processes", type=int, default=8, help="of each kind, in turns")
    parser.add_argument("--steps", type=int, default=12, help="timed optimizer steps of each")
    parser.add_argument("--warmup-steps", type=int, default=3, help="untimed ones before them")
    add_common_arguments(parser)
    return parser
