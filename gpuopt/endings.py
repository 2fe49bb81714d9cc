"""How a command ends: one last line on stderr and an exit code, whatever has happened.

Exit codes: 0 done, 1 a bug, 2 bad input, 3 a fault of the machine, 4 a target not met,
75 stopped on request and resumable. The last line says what, where and what to do.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gpuopt.errors import GpuoptError, nearest, one_line

__all__ = ["REFUSALS", "ending_clearly", "ending_on_signals", "explain"]

# What bad input raises.
REFUSALS = (HydraException, OmegaConfBaseException, GpuoptError, yaml.YAMLError)

# PyTorch puts this before the trace of an error in another process.
_TRACE = "Original Traceback"
# How Hydra words what is wrong in a file; the key follows on a line of its own.
_IN_FILE = re.compile(r"In '([^']+)': \w+ raised while composing config:\n(.*)")
_FULL_KEY = re.compile(r"full_key: (\S+)")
_NO_LIST = re.compile(r"Error merging override ([\w.]+)=(.*): Invalid value .* is not a ListConfig")


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
def ending_on_signals() -> Iterator[None]:
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
    if isinstance(error, yaml.YAMLError):
        return _not_yaml(error)
    if in_file := _IN_FILE.match(str(error)):
        return _wrong_in_file(error, *in_file.groups())
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
    if no_list := _NO_LIST.match(text):
        key, value = no_list.groups()
        return f"{key}={value}: give a list, such as {key}=[{value}]"
    if text.startswith("Ambiguous value"):
        return f"{text}: several values are a sweep, which needs -m; else put them in quotes"
    key = getattr(error, "full_key", None)
    return f"{key}: {text}" if key and str(key) not in text else text


def _not_yaml(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f"{mark.name}, line {mark.line + 1}: " if mark else ""
    return f"{place}this is no YAML ({problem or _first_line(error)}): mend the file"


def _wrong_in_file(error: BaseException, name: str, what: str) -> str:
    """Name the file and the key that a setting in a file is wrong by."""
    found = _FULL_KEY.search(str(error))
    key = found.group(1) if found else ""
    last = key.rpartition(".")[2]
    if not what.startswith(f"Key '{last}'"):
        return f"{name}.yaml: {key}: {what}"
    parent = getattr(error.__context__, "parent_node", None)
    known = [str(known) for known in parent] if isinstance(parent, DictConfig) else []
    return f"{name}.yaml: {key} is no setting{nearest(last, known)}"


def _no_such_option(error: MissingConfigException) -> str:
    missing = str(error.missing_cfg_file).removesuffix(".yaml")
    group, _, option = missing.rpartition("/")
    known = [str(name) for name in error.options or ()]
    if not group:
        return f"there is no configuration {option}{nearest(option, known)}"
    return f"{group}={option}: no such option{nearest(option, known) or '; --help lists them'}"


def _end(name: str, message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(one_line(f"gpuopt {name}: {message}") + "\n")
    sys.exit(code)


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    # What a loader process raised comes with its trace, and what is wrong stands at the end.
    return f"{lines[-1]} (in a loader process)" if _TRACE in str(error) else lines[0]
