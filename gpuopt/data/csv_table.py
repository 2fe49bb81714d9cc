"""A CSV file as columns, with errors that name file, row and column."""

import csv
from dataclasses import dataclass
from pathlib import Path

from gpuopt.data.image_files import shown
from gpuopt.errors import InputError, nearest

__all__ = ["CsvTable", "read_csv"]


@dataclass(frozen=True)
class CsvTable:
    """The text of a CSV file.

    Attributes:
        file: Where it was read from.
        names: Column names, in order.
        rows: The values of each row, as many as there are columns.
    """

    file: Path
    names: list[str]
    rows: list[list[str]]

    def column(self, name: str) -> list[str]:
        """Return a column without surrounding blanks.

        Raises:
            InputError: When there is none of that name.
        """
        if name not in self.names:
            raise InputError(
                f"{shown(self.file)} has no column {name!r}{nearest(name, self.names)}"
            )
        place = self.names.index(name)
        return [row[place].strip() for row in self.rows]

    def filled(self, name: str) -> list[str]:
        """Return a column of which no value is empty.

        Raises:
            InputError: For the first empty value.
        """
        values = self.column(name)
        if "" in values:
            raise InputError(
                f"{shown(self.file)}, data row {values.index('') + 1}: column {name!r} is empty"
            )
        return values

    def unique(self, name: str) -> list[str]:
        """Return a filled column of which no value comes twice.

        Raises:
            InputError: For the first value that does.
        """
        values = self.filled(name)
        seen: dict[str, int] = {}
        for row, value in enumerate(values, start=1):
            if value in seen:
                raise InputError(
                    f"{shown(self.file)}, data rows {seen[value]} and {row}: "
                    f"{value!r} comes twice in column {name!r}"
                )
            seen[value] = row
        return values


def read_csv(file: Path, key: str) -> CsvTable:
    """Read a CSV file with a header line, in UTF-8.

    Args:
        file: The file.
        key: The configuration key that names it, for the errors.

    Raises:
        InputError: When it is missing, no text, empty, or a row has another number of columns.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = [line for line in csv.reader(stream, strict=True) if line]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file {shown(file)}: set {key}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{shown(file)} cannot be read as a CSV in UTF-8: {reason}") from None
    if len(lines) < 2:
        raise InputError(f"{shown(file)} has no data rows: it needs a header and a row per image")
    names = [name.strip() for name in lines[0]]
    for row, line in enumerate(lines[1:], start=1):
        if len(line) != len(names):
            raise InputError(
                f"{shown(file)}, data row {row}: {len(line)} values for {len(names)} columns"
            )
    return CsvTable(file, names, lines[1:])
