"""Say what this machine or a named card can do, and what to set; needs no GPU."""

import functools
import sys
from collections.abc import Mapping, Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from gpuopt.answers import print_json, table_console
from gpuopt.checks import CheckRequest, Report, make_report, present_subjects
from gpuopt.entry import checked, run_command
from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue, look_at_machine, torch_build
from gpuopt.known_run import known_run
from gpuopt.mode_options import shipped_modes, training_words
from gpuopt.schema import CONF_DIR, CheckConfig, to_check_config
from gpuopt.tta_options import shipped_policies

__all__ = ["main"]

_SCHEMA = 1
_WITH_VIEWS = {"tta", "recommend", "matrix"}


def main() -> None:
    """Run `gpuopt check`."""
    run_command("check", _check)


def _check(composed: DictConfig) -> None:
    config = to_check_config(checked(composed))
    names = [config.report] if isinstance(config.report, str) else config.report
    request = _request(config, names)
    if "benchmark" in names:  # refused before the other reports are made, and torch is imported
        present_subjects(request)
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
        policies=shipped_policies() if _WITH_VIEWS & set(names) else (),
        images=config.images,
        train_images=config.train_images,
        modes=shipped_modes(),
        words=training_words(HydraConfig.get().overrides.task, config.gpu),
        run=None if config.run is None else known_run(config.run),
        cache_dir=config.cache_dir,
        track=functools.partial(
            track,
            description="predicting",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ),
        look=functools.cache(look_at_machine),  # one look for all reports
        look_at_build=functools.cache(torch_build),
    )


def _print_tables(reports: Mapping[str, Report]) -> None:
    console = table_console()
    for report in reports.values():
        console.print(report)


def _print_json(reports: Mapping[str, Report]) -> None:
    contents = [{"report": name, **report.as_dict()} for name, report in reports.items()]
    content = contents[0] if len(contents) == 1 else {"reports": contents}
    print_json({"schema": _SCHEMA, **content})


def _print_markdown(reports: Mapping[str, Report]) -> None:
    # Only now: bad input and JSON need nothing that draws tables.
    from gpuopt.report.markdown import to_markdown

    parts = [f"## {name}\n\n{to_markdown(report)}" for name, report in reports.items()]
    sys.stdout.write("\n".join(parts))


_PRINT = {"json": _print_json, "markdown": _print_markdown, "table": _print_tables}


if __name__ == "__main__":
    main()
