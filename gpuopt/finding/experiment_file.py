"""Write what was found as a new experiment, which `gpuopt train experiment=NAME` then runs with.

An existing file is never touched: `conf/experiment/NAME.yaml` is new, or the command is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gpuopt.errors import InputError, one_line
from gpuopt.storage import create_text

__all__ = ["ExperimentFile"]

_NAME = re.compile(r"[A-Za-z][\w-]{0,99}")
# Values in Hydra's grammar: `experiment=true` names no experiment.
_NO_NAMES = ("true", "false", "null", "nan", "inf")


@dataclass(frozen=True)
class ExperimentFile:
    """A file that does not exist yet.

    Attributes:
        name: What `experiment=` takes.
        folder: The user's configuration folder.
        marker: Name of the file that makes the folder gpuopt's; None where it needs none.
    """

    name: str
    folder: Path
    marker: str | None

    @classmethod
    def place(
        cls, name: str, *, shipped: Path, marker: str, given: Path | None = None
    ) -> "ExperimentFile":
        """Find where a new experiment goes, before any work is done for it.

        Args:
            name: Of the experiment.
            shipped: The configuration that gpuopt brings.
            marker: Name of the file by which a folder `conf` is the user's settings.
            given: The folder of `--config-dir`; None takes `./conf`.

        Raises:
            InputError: When the name is no name, the experiment exists, or `./conf` is somebody
                else's.
        """
        if not _NAME.fullmatch(name) or name.lower() in _NO_NAMES:
            raise InputError(
                f"save_config={name}: give a name of letters, digits, _ and -, which "
                "experiment=NAME then takes"
            )
        folder = given or Path("conf")
        # In a checkout ./conf are the shipped settings, and the user's own ones lie there as well.
        is_read = given is not None or folder.resolve() == shipped.resolve()
        if folder.exists() and not is_read and not (folder / marker).is_file():
            raise InputError(
                f"save_config={name}: {folder} is no folder of gpuopt's settings (it has no "
                f"{marker}): start elsewhere, or name a folder with --config-dir"
            )
        for place in (folder, shipped):
            path = place / "experiment" / f"{name}.yaml"
            if path.exists():
                raise InputError(
                    f"save_config={name}: {path} exists and is not changed: give another name"
                )
        return cls(name, folder, None if is_read else marker)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "experiment" / f"{self.name}.yaml"

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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.marker is not None and not (self.folder / self.marker).exists():
                create_text(self.folder / self.marker, "Settings of gpuopt; files here win.\n")
            create_text(self.path, self._text(groups, values, comments))
        except FileExistsError as error:
            raise InputError(
                f"save_config={self.name}: {self.path} exists and is not changed: give another name"
            ) from error
        except OSError as error:
            raise InputError(
                f"save_config={self.name}: {self.path} cannot be written ({error.strerror}): name "
                "a folder with --config-dir"
            ) from error

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
