"""Check what fits which GPU, on a machine that need not have one."""

import functools
import json
import sys

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from gpuopt.checks import CheckRequest, Report, make_report
from gpuopt.entry import checked, run_command
from gpuopt.hardware import load_catalogue
from gpuopt.schema import CONF_DIR, CheckConfig, to_check_config

__all__ = ["main"]

_SCHEMA = 1
_WIDTH = 100


def main() -> None:
    """Run `gpuopt check`."""
    run_command("check", _check)


def _check(composed: DictConfig) -> None:
    config = to_check_config(checked(composed))
    _PRINT[config.format](config.report, make_report(config.report, _request(config)))


def _request(config: CheckConfig) -> CheckRequest:
    console = Console(stderr=True)
    return CheckRequest(
        gpu=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        model=config.model,
        optimizer=config.optimizer,
        precision=config.precision.name,
        image_size=config.image_size,
        moving_average=config.moving_average,
        cache_dir=config.cache_dir,
        track=functools.partial(
            track,
            description="predicting",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ),
    )


def _print_table(name: str, report: Report) -> None:
    console = Console(highlight=False)
    if not console.is_terminal or console.width > _WIDTH:
        console = Console(width=_WIDTH, highlight=False)
    console.print(report)


def _print_json(name: str, report: Report) -> None:
    content = {"schema": _SCHEMA, "report": name, **report.as_dict()}
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


_PRINT = {"json": _print_json, "table": _print_table}


if __name__ == "__main__":
    main()
