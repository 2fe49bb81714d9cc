"""Find the largest and the best batch of a GPU: measured where it is, else predicted."""

import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gpuopt.answers import print_ending, print_json, table_console
from gpuopt.configuration import KEYS
from gpuopt.entry import checked, folder_words, run_command, typed_folder, typed_keys
from gpuopt.errors import InputError, TargetNotMetError
from gpuopt.find_answer import Found, find, refuse_contradictions
from gpuopt.finding.answer import SizedProbe
from gpuopt.finding.experiment_file import ExperimentFile
from gpuopt.finding.found_settings import FoundSettings, refuse_deletions
from gpuopt.finding.memory_profile import require_new, write_profile
from gpuopt.finding.probing_process import Measured, measure_in_process
from gpuopt.finding.request import FindRequest
from gpuopt.hardware import DriverDevice, driver_devices
from gpuopt.schema import CONF_DIR, USER_CONF_MARKER, FindBatchSizeConfig, to_find_config

__all__ = ["main"]

_SCHEMA = 1


def main() -> None:
    """Run `gpuopt find_batch_size`."""
    run_command("find_batch_size", _find)


def _find(composed: DictConfig) -> None:
    settings = checked(composed)
    config = to_find_config(settings)
    refuse_contradictions(config, typed_keys(HydraConfig.get()))
    experiment, profile = _place_experiment(config.save_config), _place_profile(config)
    _refuse_one_place(experiment, profile)

    def measure(device: DriverDevice, request: FindRequest, reason: str) -> Measured:
        order = {
            "settings": settings,
            "device": device.index,
            "checkpointing": request.checkpointing,
            "offload": request.offloads,
            "image_size": request.image_size,
            "reason": reason,
        }
        return measure_in_process(order, on_probe=_show)

    found = find(config, driver_devices(), measure)
    use = _use(config, settings, found)
    written: list[Path] = []
    if found.answer.shortfall is None:
        written = _write(found, use, experiment, profile)
    _PRINT[config.format](found, _command(config, use, found, experiment), written)
    if found.answer.shortfall is not None:
        raise TargetNotMetError(found.answer.shortfall)


def _show(probe: SizedProbe) -> None:
    """Tell a person that the search goes on."""
    if sys.stderr.isatty():
        taken = probe.allocated_bytes
        end = f"{taken / 2**30:.2f} GiB" if taken else "out of memory"
        end += ", the allocator thrashes" if probe.thrashed else ""
        sys.stderr.write(f"probe: batch {probe.batch_size}, {end}\n")


def _place_experiment(name: str | None) -> ExperimentFile | None:
    if name is None:
        return None
    refuse_deletions(HydraConfig.get().overrides.task, name)
    return ExperimentFile.place(
        name, shipped=CONF_DIR, marker=USER_CONF_MARKER, given=typed_folder()
    )


def _place_profile(config: FindBatchSizeConfig) -> Path | None:
    if config.memory_profile is None:
        return None
    return require_new(Path(config.memory_profile).expanduser())


def _refuse_one_place(experiment: ExperimentFile | None, profile: Path | None) -> None:
    """Refuse two files at one path, of which the second could not be written after the search."""
    if experiment and profile and experiment.path.resolve() == profile.resolve():
        raise InputError(
            f"memory_profile={profile} is the file of save_config={experiment.name}: name another"
        )


def _use(config: FindBatchSizeConfig, settings: dict[str, Any], found: Found) -> FoundSettings:
    """Collect what the next command is told: what was typed here, and what was found."""
    return FoundSettings.of(
        HydraConfig.get().overrides.task,
        settings,
        groups=[path.name for path in CONF_DIR.iterdir() if path.is_dir()],
        keys=KEYS["train" if config.purpose == "train" else "predict"],
        found=found.settings,
    )


def _write(
    found: Found, use: FoundSettings, experiment: ExperimentFile | None, profile: Path | None
) -> list[Path]:
    written = []
    if experiment is not None:
        choice = found.answer.choice
        if choice.evidence == "table":
            raise InputError(f"save_config: there is no answer to save: {choice.reason}")
        cards = ", ".join(card.card for card in found.answer.cards)
        comment = f"By gpuopt find_batch_size on {date.today().isoformat()} for {cards}."
        experiment.write(use.groups, {**use.values, **use.found}, [comment, str(choice)])
        written.append(experiment.path)
    if profile is not None:
        write_profile(profile, found.answer, found.snapshots)
        written.append(profile)
    return written


def _command(
    config: FindBatchSizeConfig,
    use: FoundSettings,
    found: Found,
    experiment: ExperimentFile | None,
) -> str | None:
    """Word the one command that uses the answer; None where nothing fits."""
    if found.answer.largest == 0:
        return None
    if experiment is not None and found.answer.shortfall is None:
        use = FoundSettings({}, {}, {}, {"experiment": experiment.name})
    name = "train" if config.purpose == "train" else "predict"
    return use.command(name, options=folder_words(), devices=found.devices)


def _print_table(found: Found, command: str | None, written: Sequence[Path]) -> None:
    # Only now: bad input and JSON need nothing that draws tables.
    from gpuopt.finding.table import find_table

    console = table_console()
    console.print(find_table(found.answer))
    print_ending(console, written, command)


def _print_json(found: Found, command: str | None, written: Sequence[Path]) -> None:
    content = {
        "schema": _SCHEMA,
        **found.answer.as_dict(),
        "written": [str(path) for path in written],
        "command": command,
    }
    print_json(content)


_PRINT = {"json": _print_json, "table": _print_table}


if __name__ == "__main__":
    main()
