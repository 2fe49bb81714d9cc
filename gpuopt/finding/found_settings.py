"""The command that uses what was found: what the user typed, with the answer in its place."""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from gpuopt.errors import InputError

__all__ = ["FoundSettings", "refuse_deletions"]

# Of no use later: for a card that is not there, and for finding faults.
_LEFT_OUT = ("debug", "gpu.memory_gib")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class FoundSettings:
    """What the user typed, and what was found.

    Attributes:
        groups: Options by group, as typed.
        values: Settings by dotted key, as composed.
        words: As typed, in their order.
        found: Settings by dotted key.
    """

    groups: Mapping[str, Any]
    values: Mapping[str, Any]
    words: Mapping[str, str]
    found: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        words: Sequence[str],
        settings: Mapping[str, Any],
        groups: Collection[str],
        keys: Collection[str],
        found: Mapping[str, Any],
    ) -> "FoundSettings":
        """Sort the words of a command line.

        Args:
            words: Overrides in Hydra's grammar.
            settings: What they were composed to.
            groups: Names of the configuration groups.
            keys: First parts of the settings that the command takes which uses the answer.
            found: Settings by dotted key; they win over typed ones.
        """
        chosen: dict[str, Any] = {}
        values: dict[str, Any] = {}
        typed: dict[str, str] = {}
        for word, override in zip(
            words, OverridesParser.create().parse_overrides(list(words)), strict=True
        ):
            key = str(override.key_or_group)
            if key in _LEFT_OUT or key in found or key.partition(".")[0] not in keys:
                continue
            typed[key] = word
            if override.is_delete():
                continue  # there is nothing left that had a value
            if key in groups:
                chosen[key] = override.value()
            else:
                values[key] = _at(settings, key)
        return cls(chosen, values, typed, found)

    def command(
        self, name: str, *, options: Sequence[str] = (), devices: Sequence[int] | None = None
    ) -> str:
        """Word the command line that uses what was found.

        Args:
            name: The command.
            options: What goes before the settings, such as `--config-dir`.
            devices: Positions in CUDA's order of the devices to use; None leaves it to CUDA.
        """
        found = [f"{key}={_word(value)}" for key, value in self.found.items()]
        return _on_devices(["gpuopt", name, *options, *self.words.values(), *found], devices)


def refuse_deletions(words: Sequence[str], save_config: str) -> None:
    """Refuse to save what a file cannot say: that a setting is to be taken away.

    Args:
        words: Overrides in Hydra's grammar.
        save_config: Name of the experiment.

    Raises:
        InputError: Names the first word that deletes.
    """
    for word, override in zip(
        words, OverridesParser.create().parse_overrides(list(words)), strict=True
    ):
        if override.is_delete():
            raise InputError(
                f"save_config={save_config}: an experiment cannot take {word[1:]} away: leave "
                f"{word} out, or save_config"
            )


def _at(settings: Mapping[str, Any], key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = value[name]
    return value


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _on_devices(words: Sequence[str], devices: Sequence[int] | None) -> str:
    line = shlex.join(words)
    if devices is None:
        return line
    # CUDA counts only what the variable names, where it is set: its own words name the same cards.
    visible = [entry.strip() for entry in os.environ.get(_VISIBLE, "").split(",")]
    names = [visible[i] if visible[0] and i < len(visible) else str(i) for i in devices]
    return f"{_VISIBLE}={','.join(names)} {line}"
