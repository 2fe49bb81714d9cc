"""Where what can be made again is kept between commands."""

from pathlib import Path

import platformdirs

__all__ = ["default_cache_dir"]


def default_cache_dir() -> Path:
    """Return the user's own cache folder for gpuopt."""
    return platformdirs.user_cache_path("gpuopt")
