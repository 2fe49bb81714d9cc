"""What the installed PyTorch was built for, and what stands beside it."""

import ast
import contextlib
import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpuopt.errors import InputError, one_line
from gpuopt.hardware.build_support import supported_by_build

__all__ = ["TorchBuild", "installed_versions", "least_driver", "torch_build", "torch_versions"]

_PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "torch-tensorrt",
    "tensorrt-rtx",
    "torchao",
)
# First driver of each major version of CUDA on Linux, from its release notes; later minor versions
# of CUDA run on it as well.
_LEAST_DRIVER = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True)
class TorchBuild:
    """The installed PyTorch.

    Attributes:
        version: Such as "2.14.1+cu130".
        cuda: That it was built with, such as "13.0"; None for a build without it.
        arch_list: Cards that it holds machine code for, such as ("sm_86",); None: not asked.
        cudnn: Its version, or why it does not load; None without it.
        nccl: Its version.
        onnx_providers: Execution providers of the installed ONNX Runtime; None without it.
        packages: Versions of what stands beside it; None for what is not installed.
    """

    version: str | None = None
    cuda: str | None = None
    arch_list: tuple[str, ...] | None = None
    cudnn: str | None = None
    nccl: str | None = None
    onnx_providers: tuple[str, ...] | None = None
    packages: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def cuda_major(self) -> int | None:
        """Major version of CUDA; None without it."""
        return None if self.cuda is None else int(self.cuda.partition(".")[0])

    def drives(self, compute_capability: str | None) -> bool | None:
        """Tell whether it holds code for a card; None where that is not known."""
        if self.arch_list is None or compute_capability is None:
            return None
        try:
            return supported_by_build(compute_capability, self.arch_list)
        except InputError:
            return None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "packages": dict(self.packages)}


def installed_versions() -> dict[str, str | None]:
    """Return the version of each package that matters, None for one that is not installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def least_driver(cuda_major: int) -> int | None:
    """Return the first driver, such as 580, of a major version of CUDA; None if unknown."""
    return _LEAST_DRIVER.get(cuda_major)


def torch_versions() -> TorchBuild:
    """Read the versions of the installed PyTorch, which imports nothing."""
    packages = installed_versions()
    name, cuda = _written_versions()
    return TorchBuild(name or packages["torch"], cuda, packages=packages)


def torch_build() -> TorchBuild:
    """Look at the installed PyTorch; importing it and ONNX Runtime takes seconds."""
    import torch

    return TorchBuild(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        arch_list=_arch_list(torch),
        cudnn=_cudnn(torch),
        nccl=_nccl(torch),
        onnx_providers=_onnx_providers(),
        packages=installed_versions(),
    )


def _written_versions() -> tuple[str | None, str | None]:
    """Read PyTorch's version and CUDA's from its file, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None, None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None, None
    values: dict[str, Any] = {}
    for name in ("__version__", "cuda"):
        match = re.search(rf"^{name}(?:: [^=]+)? = (.+)$", text, re.MULTILINE)
        if match is not None:
            with contextlib.suppress(ValueError, SyntaxError):
                values[name] = ast.literal_eval(match[1])
    return values.get("__version__"), values.get("cuda")


def _arch_list(torch: Any) -> tuple[str, ...]:
    """Ask what the build holds; torch's own function says nothing on a machine without a card."""
    flags = getattr(torch._C, "_cuda_getArchFlags", None)
    text = None if flags is None else flags()
    return tuple(text.split()) if text else ()


def _nccl(torch: Any) -> str | None:
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError, ImportError):  # a build without it
        return None


def _onnx_providers() -> tuple[str, ...] | None:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    return tuple(runtime.get_available_providers())


def _cudnn(torch: Any) -> str | None:
    """Word its number: 92400 is 9.24.0; before version 9 it had a digit less."""
    try:
        number = torch.backends.cudnn.version()
    except RuntimeError as error:  # another version is found first, or it is too new for a card
        return f"does not load: {one_line(str(error), 200)}"
    if number is None:
        return None
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"
