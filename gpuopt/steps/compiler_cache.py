"""Where compiled code is kept, what has been compiled into it, and whether there is a compiler."""

import contextlib
import copyreg
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gpuopt.storage import default_cache_dir, write_json

__all__ = ["CompilerCache", "missing_compiler", "same_keys"]

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class CompilerCache:
    """PyTorch's cache of compiled code, in a folder that outlives the process.

    A task that is noted here is compiled from the cache, which takes a part of the time. The notes
    lie in the cache itself, so that they go when it goes.

    Args:
        folder: Folder of all caches; None means the user's cache folder. A folder that the
            environment gives PyTorch wins.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        given = os.environ.get(_VARIABLE)
        own = Path(folder or default_cache_dir()).expanduser() / "compiled"
        self.folder = own if given is None or _is_default(given) else Path(given)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let PyTorch, here and in processes started here, read and fill this cache."""
        before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = str(self.folder)
        try:
            with same_keys():
                yield
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before

    def holds(self, digest: str) -> bool:
        """Tell whether a task has been compiled."""
        return self._note(digest).is_file()

    def note(self, digest: str, mode: str, duration_s: float) -> None:
        """Note that a task has been compiled; a folder that cannot be written only costs time."""
        with contextlib.suppress(OSError):
            self._note(digest).parent.mkdir(parents=True, exist_ok=True)
            write_json(self._note(digest), {"mode": mode, "duration_s": duration_s})

    def _note(self, digest: str) -> Path:
        return self.folder / "gpuopt" / f"{digest}.json"


@contextlib.contextmanager
def same_keys() -> Iterator[None]:
    """Let the keys of PyTorch's caches not depend on what was imported in which order.

    They are sums of pickles, and a memory format is pickled under the name of the first module
    that happens to have imported torch, another one in each program.
    """
    table: dict[Any, Any] = copyreg.dispatch_table
    before = table.get(torch.memory_format)
    copyreg.pickle(torch.memory_format, _reduced)
    try:
        yield
    finally:
        del table[torch.memory_format]
        if before is not None:
            table[torch.memory_format] = before


def _reduced(memory_format: torch.memory_format) -> tuple[Any, tuple[str]]:
    return _memory_format, (str(memory_format).removeprefix("torch."),)


def _memory_format(name: str) -> Any:
    return getattr(torch, name)


def _is_default(folder: str) -> bool:
    """Tell a folder that PyTorch itself has put into the environment from one that was given."""
    path = Path(folder)
    return path.parent == Path(tempfile.gettempdir()) and path.name.startswith("torchinductor_")


def missing_compiler(device: torch.device, backend: str) -> str | None:
    """Say what a device lacks to compile for it; None when nothing is known to be missing."""
    if backend != "inductor":
        return None
    if device.type == "cpu":
        name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        return None if shutil.which(name) else f"no C++ compiler: install {name}, or set CXX"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "no Triton: install triton"
        # With it Triton builds what launches its kernels.
        names = filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))
        return None if any(map(shutil.which, names)) else "no C compiler: install gcc, or set CC"
    return f"nothing is known of compiling for {device.type}"
