"""Run benchmark programs: `python -m benchmarks [name ...] [--argument ...]`."""

import importlib
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.record import RESULTS
from benchmarks.table import write_table

__all__ = ["PROGRAMS", "main"]

PROGRAMS = {
    "step_time": "optimizer step against a bare PyTorch loop and timm's",
    "loader": "images per second against torchvision's ImageFolder",
    "freed_memory": "a CPU's training step with and without memory kept by the process",
    "startup": "time until help is shown and bad options are refused",
    "quickstart": "the README's command from nothing to scores",
    "digits_tta": "what TTA does to images whose training knew no turns",
    "soak": "runs killed 200 times at random, resumed, and compared to the bit",
    "tune_loader": "the search for a loader's setting against the exhaustive grid",
    "highperf_gpu": "training throughput and memory on a GPU",
    "two_gpus": "two GPUs against one: losses, images per second, death and resume",
    "memory_peaks": "predicted against measured peak memory, on a GPU",
    "finder": "the batch-size finder against the true maximum and its peers, on a GPU",
    "engine_start": "an engine's build, and its second start from the cache",
    "engines": "each engine's speed against the network as a script would run it",
    "seed_job": "3,140 JPEGs x 5 views x 5 folds to a CSV: whole commands, memory, peers",
    "tta_scores": "what views are worth to three networks, by disturbance of the images",
    "tta_time": "predicted against measured time of test-time augmentation",
    "presets": "every GPU preset with its memory emulated: what it plans, and what fits",
    "same_score": "one training under 6, 8 and 24 GiB: the same macro-F1",
    "telemetry": "training with a device that is sampled every second against training without",
    "recovery": "what running out of memory does to the weights, and recovery to the time",
    "diagnose": "planted bottlenecks and leaks: how many gpuopt diagnose tells right",
}
_DEFAULT = ("step_time", "loader", "freed_memory", "startup", "quickstart", "digits_tta")


def main(words: Sequence[str]) -> int:
    """Run one program in this process, or several in processes of their own.

    Args:
        words: Programs, then their arguments; `table` only writes the table anew.

    Returns:
        The exit code: 1 when a program failed, 2 for an unknown one.
    """
    if words and words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    first_argument = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    names, arguments = list(words[:first_argument]), list(words[first_argument:])
    unknown = [name for name in names if name not in (*PROGRAMS, "table")]
    if unknown:
        print(f"no program {unknown[0]!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    if names == ["table"]:
        write_table(RESULTS)
        return 0
    if len(names) == 1:
        path = importlib.import_module(f"benchmarks.{names[0]}").main(arguments)
        if path.parent.resolve() == RESULTS.resolve():
            write_table(RESULTS)
        return 0
    failed = []
    for name in names or _DEFAULT:
        print(f"\n{name}: {PROGRAMS[name]}", flush=True)
        done = subprocess.run([sys.executable, "-m", "benchmarks", name, *arguments], check=False)
        failed += [name] if done.returncode else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _usage() -> str:
    lines = "\n".join(f"  {name:<13} {text}" for name, text in PROGRAMS.items())
    return (
        f"usage: python -m benchmarks [name ...] [--argument ...]\n\n{lines}\n"
        "  table         write the table of benchmarks/README.md anew\n\n"
        f"Without a name: {', '.join(_DEFAULT)}. `python -m benchmarks NAME --help` lists the "
        "arguments of one.\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
