"""What every command has in common: compose, check, run; `gpuopt.endings` says how it ended."""

import argparse
import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from gpuopt.configuration import (
    check_config,
    check_machine,
    settle_batch_sizes,
    translate_arguments,
)
from gpuopt.endings import ending_clearly, ending_on_signals
from gpuopt.errors import InputError, nearest
from gpuopt.override_words import readable
from gpuopt.run import choose_folder, remove_empty
from gpuopt.schema import CONF_DIR, SCHEMAS, fitting, register
from gpuopt.session.sweep_words import is_sweep, prepare_sweep
from gpuopt.unread_output import going_on_unread

__all__ = [
    "CheckBeforeRun",
    "checked",
    "folder_words",
    "plain",
    "refuse_words",
    "run_command",
    "typed_folder",
    "typed_keys",
]

_OPTION = re.compile(r"(?!(?:null|true|false)$)[A-Za-z]\w*|[^\[].*,.*")
_LONGEST_NAME = 255  # of a file, such as the option of a group
_PLACES = ("cache_dir", "log", "output", "replay", "resume", "run")


def run_command(
    name: str, task: Callable[[DictConfig], None], *, leaves_files: bool = False
) -> NoReturn:
    """Run one command and end the process.

    Args:
        name: The command, which is also the name of its primary configuration.
        task: Called with the composed, checked configuration.
        leaves_files: Whether it is of use when nobody reads what it prints, and so goes on then.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show ends no command
        sys.stdout.reconfigure(errors="replace")
    output = going_on_unread() if leaves_files else contextlib.nullcontext()
    with output, ending_clearly(name, debug="debug=true" in sys.argv[1:]), ending_on_signals():
        words = translate_arguments(name, sys.argv[1:])
        refuse_words(words)
        _refuse_wrong_flags(name, words)
        sys.argv[1:] = map(readable, words)
        register()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the last line is ours
        caught: list[Exception] = []
        with _sweep_folder(name):
            run = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)
            run(_handing_over(task, caught))()
        if caught:
            raise caught[0]
    sys.exit(0)


def _handing_over(
    task: Callable[[DictConfig], None], caught: list[Exception]
) -> Callable[[DictConfig], None]:
    """Let a task end well for Hydra, which adds a line of its own to what an error says."""

    @functools.wraps(task)
    def run(config: DictConfig) -> None:
        try:
            task(config)
        except Exception as error:
            caught.append(error)

    return run


@contextlib.contextmanager
def _sweep_folder(name: str) -> Iterator[None]:
    """Give a sweep its folder, and take it away when nothing came to lie in it."""
    if name != "train" or not is_sweep(sys.argv[1:]):
        yield
        return
    sys.argv[1:], folder = prepare_sweep(sys.argv[1:])
    try:
        yield
    finally:
        remove_empty(folder)


class CheckBeforeRun(Callback):
    """Checks the composed configuration before Hydra makes a folder.

    Hydra turns any exception of a callback into a warning, except `SystemExit`.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check, and choose the folder of the run."""
        with _ending(config):
            settings = checked(config)
            is_training = config.hydra.job.config_name == "train"
            if is_training and not settings["resume"]:  # else the stored data count
                check_machine(settings)
            folder = choose_folder(settings, Path(config.hydra.run.dir), typed_keys(config.hydra))
            with read_write(config), open_dict(config):
                config.hydra.run.dir = str(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what all jobs of a sweep share."""
        with _ending(config):
            settings = checked(config)
            name = config.hydra.job.config_name
            if name != "train":
                raise InputError(f"only `gpuopt train` takes -m: {name} once per setting")
            if settings.get("run") not in (None, "latest") or settings.get("resume"):
                raise InputError("run= and resume= name one folder, a sweep makes one per job")


def refuse_words(words: Sequence[str]) -> None:
    """Refuse `data=null`, `model=5`, `=1` or `run=`, which Hydra answers with its own insides.

    Raises:
        InputError: Names the word, and the options of a group.
    """
    groups = [path.name for path in CONF_DIR.iterdir() if path.is_dir()]
    for word in words:
        group, equals, value = word.partition("=")
        if group.startswith("~") and group[1:] in groups:
            raise InputError(f"{word}: a setting cannot be taken away; choose {group[1:]}=...")
        if equals and not group.strip("+~"):
            raise InputError(f"{word}: settings are written key=value")
        if group in _PLACES and equals and value.strip(" '\"") == "":
            raise InputError(f"{word} is empty: give a place, or leave it out")
        if len(group) > _LONGEST_NAME:
            raise InputError(f"{group} is no setting")
        is_option = group in groups or "/" in group
        if is_option and any(len(name) > _LONGEST_NAME for name in value.split(",")):
            raise InputError(f"{word}: no such option")
        is_list = group == "callbacks" and value.startswith("[")
        if group in groups and equals and not (_OPTION.fullmatch(value) or is_list):
            options = [path.stem for path in (CONF_DIR / group).glob("*.yaml")]
            raise InputError(f"{word}: choose an option of {group}{nearest(value, options)}")


def _refuse_wrong_flags(name: str, words: Sequence[str]) -> None:
    """Refuse what Hydra's parser would answer with its usage, which names neither remedy nor us."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        parser.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; gpuopt {name} --hydra-help lists these options") from error


def checked(config: DictConfig) -> dict[str, Any]:
    """Resolve and check a composed configuration, and settle its batch sizes.

    Args:
        config: With or without Hydra's own node.

    Returns:
        Plain nested values.

    Raises:
        InputError: For the first thing that cannot work.
    """
    content = plain(config)
    hydra_node = config.hydra if "hydra" in config else HydraConfig.get()
    kind = SCHEMAS[str(hydra_node.job.config_name)]
    _refuse_unknown(content, kind)
    content = fitting(kind, content)
    check_config(content)
    if "micro_batch_size" not in content:
        return content
    return settle_batch_sizes(content, typed_keys(hydra_node))


def typed_keys(hydra_node: Any) -> list[str]:
    """List the keys that the user gave on the command line, without Hydra's own."""
    return [str(word).lstrip("+~").partition("=")[0] for word in hydra_node.overrides.task]


def typed_folder() -> Path | None:
    """Return the folder of `--config-dir`."""
    sources = HydraConfig.get().runtime.config_sources
    return next((Path(s.path) for s in sources if s.provider == "command-line"), None)


def folder_words() -> list[str]:
    """Repeat `--config-dir` for another command; empty where it was not given."""
    folder = typed_folder()
    return [] if folder is None else ["--config-dir", str(folder)]


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolve a composed configuration to nested dictionaries, without Hydra's own node."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    content = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    if not isinstance(content, dict):
        raise InputError("the configuration is empty")
    return {str(key): value for key, value in content.items()}


def _refuse_unknown(content: Mapping[str, Any], kind: type, prefix: str = "") -> None:
    """Refuse what `+key=value` adds to a schema that does not have it."""
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{prefix}{key} is no setting{nearest(key, known)}")
        if isinstance(value, Mapping) and is_dataclass(hints[key]):
            _refuse_unknown(value, hints[key], f"{prefix}{key}.")


@contextlib.contextmanager
def _ending(config: DictConfig) -> Iterator[None]:
    """End the process in a callback: Hydra would warn of any other exception and go on."""
    with ending_clearly(str(config.hydra.job.config_name), debug=bool(config.get("debug"))):
        yield
