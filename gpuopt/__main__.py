"""Dispatch `gpuopt <command>` to the module of that name, importing nothing else."""

import runpy
import sys
from typing import NoReturn

from gpuopt import __version__
from gpuopt.errors import nearest

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "train": "train, test with and without test-time augmentation, write a run folder",
    "predict": "predict the classes of images with a trained run",
    "export": "write a trained model as a faster engine, proved equal before it is used",
    "find_batch_size": "the largest and the best batch of a GPU, measured or predicted",
    "recommend_tta": "the test-time augmentation that is good and quick enough for a run",
    "tune": "loader, compilation and all else that decides how fast a training is, measured",
    "check": "which micro-batch fits which GPU, predicted without one",
    "profiler": "where the time of a training step goes, recorded over a few steps",
    "benchmark": "which engine predicts fastest, of those that are proved equal to the model",
    "monitor": "watch GPUs, machine and run in the terminal, a browser, a log or Prometheus",
    "diagnose": "what slows a training down, leaks memory or throttles the GPU",
    "sweep": "search for good settings with Optuna",
    "config": "show, copy or validate the configuration",
}


def main() -> NoReturn:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        sys.stdout.write(f"gpuopt {__version__}\n")
        sys.exit(0)
    command = arguments[0]
    if command not in COMMANDS:
        sys.stderr.write(f"gpuopt: no command {command!r}{nearest(command, COMMANDS)}\n")
        sys.exit(2)
    del sys.argv[1]
    # As `python -m gpuopt.<command>` would: a process that starts itself again finds its module.
    runpy.run_module(f"gpuopt.{command}", run_name="__main__", alter_sys=True)
    sys.exit(0)


def _usage() -> str:
    commands = "\n".join(f"  {name:<15} {text}" for name, text in COMMANDS.items())
    return (
        f"usage: gpuopt <command> [key=value ...]\n\n{commands}\n\n"
        "gpuopt <command> --help lists a command's settings.\n"
        "example: gpuopt train gpu=rtx3060 tta=essential\n"
    )


if __name__ == "__main__":
    main()
