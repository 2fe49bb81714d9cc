"""Load a new package in a process of its own first: machine code that crashes ends its process.

Seen with PyTorch 2.11 on an H200 where `CXX` named a compiler that linked its own libstdc++ into
the package, beside PyTorch's; it crashed in std::regex, and with the system's g++ it did not. Tried
here, it is a fault like any other, and another engine takes over. That process is
`python -m gpuopt.engine.package_trial PACKAGE DEVICE IMAGE_SIZE PARENT`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import torch

from gpuopt.engine.aot_package import open_package
from gpuopt.engine.protocol import EngineRequest
from gpuopt.errors import FaultError
from gpuopt.hardware.parent_death import signal_at_parents_death
from gpuopt.steps.compiling_process import import_path

__all__ = ["main", "require_no_crash"]

_NAME = "gpuopt.engine.package_trial"
_LIMIT_S = 300.0  # a first start on a cold disk took most of a minute


def require_no_crash(request: EngineRequest, package: Path, *, limit_s: float = _LIMIT_S) -> None:
    """Load a package and classify one black image in another process.

    An error that Python can catch is not this function's matter: loading it here raises it again.

    Args:
        request: What the package was built for.
        package: Its file.
        limit_s: After which the process counts as hanging.

    Raises:
        FaultError: When the process was ended by a signal or did not come to an end.
    """
    arguments = [str(package), str(request.device), str(request.image_size), str(os.getpid())]
    # A session of its own: Ctrl-C reaches this process alone, which then ends the other.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", _NAME, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": import_path()},
    )
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise FaultError(
            f"{package.name} does not load within {limit_s:.0f} s on {request.device}"
        ) from None
    finally:
        process.kill()  # does nothing to one that has ended
        process.wait()
    if code < 0:
        raise FaultError(
            f"{package.name} ends the process that loads it on {request.device} "
            f"({_signal(-code)}): {_remedy(package)}"
        )


def _remedy(package: Path) -> str:
    """Name what to do about machine code that crashes."""
    others = "take engine=compiled or engine=eager"
    if not _brings_libstdcxx(package):
        return others
    compiler = os.environ.get("CXX") or "the C++ compiler"
    return (
        f"{compiler} linked a libstdc++ of its own into it: set CXX to a compiler that takes the "
        f"system's, such as CXX=/usr/bin/g++, or {others}"
    )


def _brings_libstdcxx(package: Path) -> bool:
    """Say whether the machine code lacks the name of the library that PyTorch's own code loads."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(package) as archive:
        codes = [name for name in archive.namelist() if name.endswith(".so")]
        return bool(codes) and all(b"libstdc++.so" not in archive.read(name) for name in codes)
    return False


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def main() -> None:
    """Load the package and call it once; `kill -9` of the parent ends this process, too."""
    package, name, size, parent = sys.argv[1:]
    signal_at_parents_death(signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before
        sys.exit(1)
    device = torch.device(name)
    images = torch.zeros(1, 3, int(size), int(size), dtype=torch.uint8, device=device)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        open_package(Path(package), device)(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
