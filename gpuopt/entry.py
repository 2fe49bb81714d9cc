"""What every command has in common: compose, check, run, and end in one clear line.

Exit codes: 0 done, 1 a bug, 2 bad input, 3 a fault of the machine, 4 a target not met,
75 stopped on request and resumable. The last line of stderr says what, where and what to do.
"""

import argparse
import contextlib
import errno
import functools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from gpuopt.configuration import (
    check_config,
    check_machine,
    settle_batch_sizes,
    translate_arguments,
)
from gpuopt.errors import GpuoptError, InputError, nearest, one_line
from gpuopt.run import choose_folder, remove_empty
from gpuopt.schema import CONF_DIR, PredictConfig, TrainConfig, fitting, register
from gpuopt.session.sweep_words import is_sweep, prepare_sweep

__all__ = [
    "REFUSALS",
    "CheckBeforeRun",
    "checked",
    "ending_clearly",
    "explain",
    "plain",
    "refuse_words",
    "run_command",
    "typed_keys",
]

# What bad input raises.
REFUSALS = (HydraException, OmegaConfBaseException, GpuoptError)

# PyTorch puts this before the trace of an error in another process.
_TRACE = "Original Traceback"
_OPTION = re.compile(r"(?!(?:null|true|false)$)[A-Za-z]\w*|[^\[].*,.*")
_LONGEST_NAME = 255  # of a file, such as the option of a group
_PLACES = ("cache_dir", "output", "resume", "run")


def run_command(name: str, task: Callable[[DictConfig], None]) -> NoReturn:
    """Run one command and end the process.

    Args:
        name: The command, which is also the name of its primary configuration.
        task: Called with the composed, checked configuration.
    """
    with ending_clearly(name, debug="debug=true" in sys.argv[1:]), _ending_on_signals():
        sys.argv[1:] = translate_arguments(name, sys.argv[1:])
        refuse_words(sys.argv[1:])
        _refuse_wrong_flags(name, sys.argv[1:])
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


@contextlib.contextmanager
def ending_clearly(name: str, *, debug: bool) -> Iterator[None]:
    """Turn every error of a command into one last line on stderr and an exit code.

    Args:
        name: The command.
        debug: Show the trace of expected errors as well.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        _end(name, f"stopped by {str(error) or 'Ctrl-C'}; the same command starts again", 75)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except REFUSALS as error:
        if debug:
            traceback.print_exc()
        _end(name, explain(error), error.exit_code if isinstance(error, GpuoptError) else 2)
    except OSError as error:
        if debug:
            traceback.print_exc()
        place = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENAMETOOLONG:
            _end(name, f"{place}{error.strerror}: give a shorter one", 2)
        _end(name, f"{place}{error.strerror or error}; nothing that was saved before is lost", 3)
    except Exception as error:
        traceback.print_exc()
        kind = "" if _TRACE in str(error) else f"{type(error).__name__}: "
        _end(name, f"internal error: {kind}{_first_line(error)}", 1)


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let a scheduler's signals end a command as Ctrl-C does, where nothing answers them yet.

    SIGUSR1 would kill the process while it imports torch, and nobody knew that it can go on.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt(signal.Signals(number).name)

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class CheckBeforeRun(Callback):
    """Checks the composed configuration before Hydra makes a folder.

    Hydra turns any exception of a callback into a warning, except `SystemExit`.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check, and choose the folder of the run."""
        with _ending(config):
            settings = checked(config)
            if "resume" in settings and not settings["resume"]:  # else the stored data count
                check_machine(settings)
            folder = choose_folder(settings, Path(config.hydra.run.dir), typed_keys(config.hydra))
            with read_write(config), open_dict(config):
                config.hydra.run.dir = str(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what all jobs of a sweep share."""
        with _ending(config):
            settings = checked(config)
            if "trainer" not in settings:
                raise InputError("only `gpuopt train` takes -m: predict once per setting")
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
    kind = TrainConfig if "trainer" in content else PredictConfig
    _refuse_unknown(content, kind)
    content = fitting(kind, content)
    check_config(content)
    if "micro_batch_size" not in content:
        return content
    hydra_node = config.hydra if "hydra" in config else HydraConfig.get()
    return settle_batch_sizes(content, typed_keys(hydra_node))


def typed_keys(hydra_node: Any) -> list[str]:
    """List the keys that the user gave on the command line, without Hydra's own."""
    return [str(word).lstrip("+~").partition("=")[0] for word in hydra_node.overrides.task]


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolve a composed configuration to nested dictionaries, without Hydra's own node."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    content = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    if not isinstance(content, dict):
        raise InputError("the configuration is empty")
    return {str(key): value for key, value in content.items()}


def explain(error: BaseException) -> str:
    """Word an error of Hydra or OmegaConf as one line that names file, key and remedy."""
    return one_line(_explained(error))


def _explained(error: BaseException) -> str:
    if isinstance(error, GpuoptError):
        return str(error).strip() or type(error).__name__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_option(error)
    if isinstance(error, OverrideParseException):
        word = str(error.override)
        has_value = bool(word.partition("=")[2])
        hint = "; quote special characters of a value: key='a(b'" if has_value else ""
        return f"{word}: settings are written key=value{hint}"
    cause = error.__cause__
    unknown = re.search(r"Key '([^']+)' (?:is )?not in", f"{error}\n{cause or ''}")
    parent = getattr(cause or error, "parent_node", None)
    if unknown and isinstance(parent, DictConfig):
        key = getattr(cause or error, "full_key", None) or unknown.group(1)
        return f"{key} is no setting{nearest(unknown.group(1), [str(name) for name in parent])}"
    parts = [_first_line(error)]
    if cause is not None and _first_line(cause) not in parts[0]:
        parts.append(_first_line(cause))
    text = ": ".join(part.rstrip(".") for part in parts)
    if text.startswith("Ambiguous value"):
        return f"{text}: several values are a sweep, which needs -m; else put them in quotes"
    key = getattr(error, "full_key", None)
    return f"{key}: {text}" if key and str(key) not in text else text


def _no_such_option(error: MissingConfigException) -> str:
    missing = str(error.missing_cfg_file).removesuffix(".yaml")
    group, _, option = missing.rpartition("/")
    known = [str(name) for name in error.options or ()]
    if not group:
        return f"there is no configuration {option}{nearest(option, known)}"
    return f"{group}={option}: no such option{nearest(option, known) or '; --help lists them'}"


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


def _end(name: str, message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(one_line(f"gpuopt {name}: {message}") + "\n")
    sys.exit(code)


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    # What a loader process raised comes with its trace, and what is wrong stands at the end.
    return f"{lines[-1]} (in a loader process)" if _TRACE in str(error) else lines[0]
