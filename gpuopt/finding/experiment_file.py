"""Write what was found as a new experiment, which `gpuopt train experiment=NAME` then runs with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gpuopt.configuration.settings_file import SettingsFile
from gpuopt.errors import one_line

__all__ = ["ExperimentFile"]


@dataclass(frozen=True)
class ExperimentFile:
    """A file that does not exist yet.

    Attributes:
        file: Its place.
    """

    file: SettingsFile

    @classmethod
    def place(
        cls, name: str, *, shipped: Path, marker: str, given: Path | None = None
    ) -> "ExperimentFile":
        """Find where a new experiment goes; arguments and errors as `SettingsFile.place`."""
        return cls(
            SettingsFile.place("experiment", name, shipped=shipped, marker=marker, given=given)
        )

    @property
    def name(self) -> str:
        """What `experiment=` takes."""
        return self.file.name

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def write(
        self, groups: Mapping[str, Any], values: Mapping[str, Any], comments: Sequence[str]
    ) -> None:
        """Write the experiment.

        Args:
            groups: Options by group; that of `experiment` is built upon.
            values: Settings by dotted key.
            comments: Lines at the top.

        Raises:
            InputError: When the folder cannot be written, or the file exists by now.
        """
        self.file.create(self._text(groups, values, comments))

    def _text(
        self, groups: Mapping[str, Any], values: Mapping[str, Any], comments: Sequence[str]
    ) -> str:
        defaults: list[Any] = [f"{groups['experiment']}"] if "experiment" in groups else []
        defaults += [
            {f"override /{group}": option}
            for group, option in groups.items()
            if group != "experiment"
        ]
        content: dict[str, Any] = {"defaults": [*defaults, "_self_"], "experiment": self.name}
        for key, value in values.items():
            _put(content, key.split("."), value)
        lines = ["# @package _global_", *(f"# {one_line(comment)}" for comment in comments)]
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        return "\n".join([*lines, text])


def _put(content: dict[str, Any], names: Sequence[str], value: Any) -> None:
    *parents, name = names
    for parent in parents:
        content = content.setdefault(parent, {})
    content[name] = value
