"""What people call the data that settings name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["kind_of_data", "name_of_data"]


def name_of_data(data: Mapping[str, Any]) -> str:
    """Name a data set: the folder of own images, or the kind of data.

    Args:
        data: The settings of a `data=` option.
    """
    if data.get("root"):
        return Path(data["root"]).expanduser().resolve().name
    return kind_of_data(data)


def kind_of_data(data: Mapping[str, Any]) -> str:
    """Return the class in small letters: `documents` for `gpuopt.data.Documents`."""
    return str(data["_target_"]).rpartition(".")[2].lower()
