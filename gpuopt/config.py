"""Show, copy or validate the configuration: `gpuopt config show|copy|validate`."""

import shutil
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from gpuopt.configuration import translate_arguments
from gpuopt.endings import ending_clearly
from gpuopt.entry import checked, refuse_words
from gpuopt.errors import InputError, nearest
from gpuopt.hardware import Gpu
from gpuopt.override_words import readable
from gpuopt.schema import CONF_DIR, SCHEMAS, USER_CONF_MARKER, register

__all__ = ["main"]

_VERBS = ("show", "copy", "validate")
_PRIMARY = tuple(SCHEMAS)
_USAGE = f"""\
usage: gpuopt config show [COMMAND] [key=value ...]      print composed settings
       gpuopt config validate [COMMAND] [key=value ...]  check them, run nothing
       gpuopt config copy [FOLDER]                       copy the shipped files (./conf)
COMMAND: {", ".join(SCHEMAS)}; train when it is left out
"""


def main() -> None:
    """Run `gpuopt config`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_USAGE)
        sys.exit(0 if arguments else 2)
    with ending_clearly("config", debug="debug=true" in arguments):
        _run(arguments[0], arguments[1:])


def _run(verb: str, arguments: list[str]) -> None:
    if verb not in _VERBS:
        raise InputError(f"config has no verb {verb!r}{nearest(verb, _VERBS)}")
    if verb == "copy":
        if len(arguments) > 1:
            raise InputError(f"config copy takes one folder, not {' '.join(arguments)}")
        copy_conf(Path(arguments[0]) if arguments else Path("conf"))
        return
    primary = arguments.pop(0) if arguments and arguments[0] in _PRIMARY else "train"
    settings, origins = _compose(primary, arguments)
    if verb == "show":
        origins += _prediction(settings)
        sys.stdout.write("".join(f"# {line}\n" for line in origins))
        sys.stdout.write(OmegaConf.to_yaml(OmegaConf.create(settings)))
    else:
        sys.stdout.write(f"{primary}: valid\n")


def compose_settings(primary: str, overrides: list[str]) -> dict[str, Any]:
    """Compose and check a configuration without running anything.

    Args:
        primary: A key of `SCHEMAS`, such as `train`.
        overrides: As on the command line.

    Raises:
        InputError: For settings that cannot work; also Hydra's own errors.
    """
    return _compose(primary, overrides)[0]


def _compose(primary: str, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Compose, and list which file each group's settings come from."""
    register()
    overrides, folder = _take_config_dir(overrides)
    words = translate_arguments(primary, overrides)
    refuse_words(words)
    words = [readable(word) for word in words]
    if folder is not None:
        words = [f"hydra.searchpath=[file://{folder}]", *words]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR.resolve())):
        config = compose(config_name=primary, overrides=words, return_hydra_config=True)
        OmegaConf.set_readonly(config.hydra, False)
        return checked(config), _origins(config.hydra)


def _origins(hydra_node: DictConfig) -> list[str]:
    sources = [Path(s.path) for s in hydra_node.runtime.config_sources if s.schema == "file"]
    lines = []
    for group, option in hydra_node.runtime.choices.items():
        if option is None or group.startswith("hydra"):
            continue
        file = Path(group) / f"{option}.yaml"
        found = next((source for source in sources if (source / file).is_file()), CONF_DIR)
        lines.append(f"{group}={option} from {'gpuopt' if found == CONF_DIR else found}")
    typed = ", ".join(hydra_node.overrides.task)
    return [*lines, f"typed: {typed}"] if typed else lines


def _prediction(settings: dict[str, Any]) -> list[str]:
    """Say what `micro_batch_size=auto` is on a named card, which need not be there."""
    is_training = "trainer" in settings and "purpose" not in settings
    gpu = Gpu(**{**settings["gpu"], "seed": None}) if is_training else Gpu()
    if settings.get("micro_batch_size") != "auto" or gpu.memory_mib is None:
        return []
    from gpuopt.session.memory import absent_choices

    try:
        return [f"on {gpu.name}: {choice}" for choice in absent_choices(gpu, settings)]
    except InputError as error:  # there may be no such model or too little memory: only shown
        return [str(error)]


def _take_config_dir(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Take `--config-dir FOLDER` out of the arguments, as the commands have it."""
    if "--config-dir" not in arguments:
        return arguments, None
    place = arguments.index("--config-dir")
    if place + 1 == len(arguments):
        raise InputError("--config-dir needs a folder")
    folder = Path(arguments[place + 1])
    if not folder.is_dir():
        raise InputError(f"--config-dir {folder}: no such folder; name one with your settings")
    return arguments[:place] + arguments[place + 2 :], folder.absolute()


def copy_conf(target: Path) -> None:
    """Copy the shipped configuration; files in ./conf then win over the shipped ones.

    Raises:
        InputError: When the folder exists: nothing of the user's is overwritten.
    """
    if target.exists():
        raise InputError(f"{target} exists: move it away, or name another folder")
    try:
        shutil.copytree(CONF_DIR, target)
        (target / USER_CONF_MARKER).write_text("Settings of gpuopt; files here win.\n", "utf-8")
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror}): name another folder"
        ) from error
    used = "" if target == Path("conf") else "; gpuopt reads ./conf, or --config-dir FOLDER"
    sys.stdout.write(f"copied to {target}{used}\n")


if __name__ == "__main__":
    main()
