"""Check what fits which GPU, on a machine that need not have one."""

import functools
import json
import sys
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from gpuopt.checks import CheckRequest, Report, make_report
from gpuopt.entry import checked, run_command
from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.known_run import known_run
from gpuopt.schema import CONF_DIR, CheckConfig, to_check_config
from gpuopt.tta_options import shipped_policies

__all__ = ["main"]

_SCHEMA = 1
_WIDTH = 100


def main() -> None:
    """Run `gpuopt check`."""
    run_command("check", _check)


def _check(composed: DictConfig) -> None:
    config = to_check_config(checked(composed))
    names = [config.report] if isinstance(config.report, str) else config.report
    request = _request(config, names)
    _PRINT[config.format]({name: make_report(name, request) for name in names})


def _request(config: CheckConfig, names: Sequence[str]) -> CheckRequest:
    if config.run is not None and "tta" not in names:
        raise InputError("run=... is for report=tta: leave it out, or report it as well")
    console = Console(stderr=True)
    return CheckRequest(
        gpu=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        model=config.model,
        optimizer=config.optimizer,
        precision=config.precision.name,
        image_size=config.image_size,
        moving_average=config.moving_average,
        policies=shipped_policies() if "tta" in names else (),
        images=config.images,
        run=None if config.run is None else known_run(config.run),
        cache_dir=config.cache_dir,
        track=functools.partial(
            track,
            description="predicting",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ),
    )


def _print_tables(reports: Mapping[str, Report]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal or console.width > _WIDTH:
        console = Console(width=_WIDTH, highlight=False)
    for report in reports.values():
        console.print(report)


def _print_json(reports: Mapping[str, Report]) -> None:
    contents = [{"report": name, **report.as_dict()} for name, report in reports.items()]
    content = contents[0] if len(contents) == 1 else {"reports": contents}
    text = json.dumps({"schema": _SCHEMA, **content}, indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")


_PRINT = {"json": _print_json, "table": _print_tables}


if __name__ == "__main__":
    main()
