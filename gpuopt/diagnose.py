"""Diagnose a training or a GPU: bottleneck, memory leak, throttling, who holds the memory."""

import sys
from typing import Any

from omegaconf import DictConfig

from gpuopt.answers import WIDTH, print_json, table_console
from gpuopt.configuration import check_machine
from gpuopt.entry import checked, run_command
from gpuopt.logs import logging_to
from gpuopt.schema import DiagnoseConfig, to_diagnose_config

__all__ = ["main"]

_SCHEMA = 1


def main() -> None:
    """Run `gpuopt diagnose`."""
    run_command("diagnose", _diagnose)


def _diagnose(composed: DictConfig) -> None:
    settings = checked(composed)
    config = to_diagnose_config(settings)
    if config.target in ("bottleneck", "leak") or config.load == "train":
        check_machine(settings)
    # Only now: torch and Lightning take seconds to import, and bad input ends before.
    from gpuopt.diagnosis_targets import diagnose

    with logging_to(None):
        answer = diagnose(config, _show)
    _PRINT[config.format](config, answer)


def _show(text: str) -> None:
    """Tell a person how far it is."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:<{WIDTH - 1}}")
        sys.stderr.flush()


def _print_table(config: DiagnoseConfig, answer: Any) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * (WIDTH - 1) + "\r")
    console = table_console()
    console.print(answer)


def _print_json(config: DiagnoseConfig, answer: Any) -> None:
    content = {"schema": _SCHEMA, "target": config.target, **answer.as_dict()}
    print_json(content)


_PRINT = {"json": _print_json, "table": _print_table}


if __name__ == "__main__":
    main()
