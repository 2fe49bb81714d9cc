"""A new file in the user's configuration, which an option of a group then names.

An existing file is never touched: `conf/GROUP/NAME.yaml` is new, or the command is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from gpuopt.errors import InputError
from gpuopt.storage import create_text

__all__ = ["SettingsFile"]

_NAME = re.compile(r"[A-Za-z][\w-]{0,99}")
# Values in Hydra's grammar: `experiment=true` names no experiment.
_NO_NAMES = ("true", "false", "null", "nan", "inf")


@dataclass(frozen=True)
class SettingsFile:
    """A file that does not exist yet.

    Attributes:
        group: Of the configuration, such as `experiment`.
        name: What `GROUP=` takes.
        folder: The user's configuration folder.
        marker: Name of the file that makes the folder gpuopt's; None where it needs none.
    """

    group: str
    name: str
    folder: Path
    marker: str | None

    @classmethod
    def place(
        cls, group: str, name: str, *, shipped: Path, marker: str, given: Path | None = None
    ) -> "SettingsFile":
        """Find where a new option goes, before any work is done for it.

        Args:
            group: Of the configuration.
            name: Of the option.
            shipped: The configuration that gpuopt brings.
            marker: Name of the file by which a folder `conf` is the user's settings.
            given: The folder of `--config-dir`; None takes `./conf`.

        Raises:
            InputError: When the name is no name, the option exists, or `./conf` is somebody
                else's.
        """
        if not _NAME.fullmatch(name) or name.lower() in _NO_NAMES:
            raise InputError(
                f"save_config={name}: give a name of letters, digits, _ and -, which "
                f"{group}=NAME then takes"
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
            path = place / group / f"{name}.yaml"
            if path.exists():
                raise InputError(
                    f"save_config={name}: {path} exists and is not changed: give another name"
                )
        return cls(group, name, folder, None if is_read else marker)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / self.group / f"{self.name}.yaml"

    def create(self, text: str) -> None:
        """Write the file, and the marker of a new folder.

        Args:
            text: YAML.

        Raises:
            InputError: When the folder cannot be written, or the file exists by now.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.marker is not None and not (self.folder / self.marker).exists():
                create_text(self.folder / self.marker, "Settings of gpuopt; files here win.\n")
            create_text(self.path, text)
        except FileExistsError as error:
            raise InputError(
                f"save_config={self.name}: {self.path} exists and is not changed: give another name"
            ) from error
        except OSError as error:
            raise InputError(
                f"save_config={self.name}: {self.path} cannot be written ({error.strerror}): name "
                "a folder with --config-dir"
            ) from error
