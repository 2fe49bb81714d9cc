"""ONNX Runtime: the network as an ONNX file, run by the provider that suits the device."""

import contextlib
import importlib.util
import itertools
import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuopt.choice import Choice
from gpuopt.engine.calls import require_images
from gpuopt.engine.exporting import export_program, first_line, quiet
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.providers import PROVIDERS, choose_provider, fallbacks
from gpuopt.errors import FaultError, InputError
from gpuopt.storage import default_cache_dir, sha256_of

__all__ = ["Onnx"]

_log = logging.getLogger(__name__)

_MODULES = ("onnx", "onnxscript", "onnxruntime")
_DISTRIBUTIONS = (
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
)
_RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
_INPUT, _OUTPUT = "images", "logits"


class Onnx:
    """Builds ONNX files and runs them with ONNX Runtime.

    Args:
        provider: `auto` or a key of `PROVIDERS`.
        threads: On a CPU; None takes as many as PyTorch.
    """

    name = "onnx"
    suffix = ".onnx"

    def __init__(self, provider: str = "auto", threads: int | None = None) -> None:
        self._provider = provider
        self._threads = threads

    def unavailable(self, device: torch.device) -> str | None:
        """Name the extra that is missing, or why no provider supports the device."""
        if any(importlib.util.find_spec(name) is None for name in _MODULES):
            extra = "onnx-gpu" if device.type == "cuda" else "onnx"
            return f"engine=onnx needs ONNX Runtime: pip install 'gpuopt[{extra}]'"
        try:
            self.choice(device)
        except InputError as error:
            return str(error)
        return None

    def versions(self, device: torch.device) -> dict[str, str]:
        """Return the versions of ONNX, of the runtime and of its providers."""
        found = {}
        for name in _DISTRIBUTIONS:
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(name)
        return found

    def choice(self, device: torch.device) -> Choice:
        """Choose the provider for a device; see `choose_provider`."""
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        return choose_provider(_available(), capability, self._provider)

    def build(self, request: EngineRequest, network: TrainedNetwork, path: Path) -> None:
        """Write the ONNX file; see `Backend`."""
        if reason := self.unavailable(request.device):
            raise InputError(reason)
        program = export_program(network, request, explicit_attention=True)
        try:
            with torch.inference_mode(False), torch.no_grad(), quiet():
                exported = torch.onnx.export(
                    program,
                    input_names=[_INPUT],
                    output_names=[_OUTPUT],
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            assert exported is not None  # with dynamo=True and no file name
            exported.save(str(path), external_data=False)
        except Exception as error:  # the exporter raises errors of many kinds
            path.unlink(missing_ok=True)
            raise FaultError(
                f"{network.name} cannot be written as ONNX ({first_line(error)}): take "
                "engine=aot_inductor or engine=compiled"
            ) from error

    def load(self, request: EngineRequest, path: Path) -> Engine:
        """Open a session on the file; see `Backend`."""
        choice = self.choice(request.device)
        words = fallbacks(_available(), choice, self._provider)
        for word, following in itertools.pairwise(words):
            try:
                return self._session(word, request, path)
            except FaultError as error:
                _log.warning("provider=%s: %s; provider=%s is tried", word, error, following)
        return self._session(words[-1], request, path)

    def _session(self, chosen: str, request: EngineRequest, path: Path) -> Engine:
        """Open a session with one provider."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the provider that is used is printed by commands
        if request.device.type == "cpu":
            options.intra_op_num_threads = self._threads or torch.get_num_threads()
        try:
            if chosen.startswith("tensorrt"):  # which makes no parents of its folder
                Path(_built_by(chosen, path)).mkdir(parents=True, exist_ok=True)
            if chosen == "tensorrt_rtx":
                _append_rtx(options, request, path)
                session = onnxruntime.InferenceSession(str(path), options)
            else:
                providers = [(PROVIDERS[chosen], provider_options(chosen, request, path))]
                if chosen == "tensorrt":  # takes what TensorRT cannot
                    providers.append((PROVIDERS["cuda"], provider_options("cuda", request, path)))
                session = onnxruntime.InferenceSession(str(path), options, providers)
        except FaultError:
            raise
        except Exception as error:  # a damaged file, or a provider whose libraries are missing
            raise FaultError(f"{path} cannot be loaded ({first_line(error)})") from error
        if PROVIDERS[chosen] not in session.get_providers():
            raise FaultError(
                f"ONNX Runtime could not start {PROVIDERS[chosen]} and would run on the CPU: its "
                "libraries do not fit the driver or CUDA; take engine=aot_inductor"
            )
        return _OnnxEngine(request, session, chosen)


class _OnnxEngine:
    """One session; images and logits stay where they are."""

    name = "onnx"

    def __init__(self, request: EngineRequest, session: Any, provider: str) -> None:
        self.device = request.device
        self.precision = request.precision
        self.max_batch_size = request.max_batch_size
        self.provider = provider
        self._request = request
        self._session = session

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Classify images; see `Engine`."""
        require_images(images, self._request)
        images = images.contiguous()
        try:
            if self.device.type == "cpu":
                (logits,) = self._session.run([_OUTPUT], {_INPUT: images.numpy()})
                return torch.from_numpy(logits)
            return self._bound(images)
        except Exception as error:  # ONNX Runtime's own classes, one per status code
            if "allocate memory" in str(error) or "out of memory" in str(error).lower():
                raise torch.OutOfMemoryError(first_line(error)) from error
            raise

    def _bound(self, images: Tensor) -> Tensor:
        logits = torch.empty(
            len(images), self._request.num_classes, dtype=torch.float32, device=self.device
        )
        binding = self._session.io_binding()
        place = ("cuda", self.device.index or 0)
        import numpy as np

        binding.bind_input(_INPUT, *place, np.uint8, list(images.shape), images.data_ptr())
        binding.bind_output(_OUTPUT, *place, np.float32, list(logits.shape), logits.data_ptr())
        # The runtime has a stream of its own and knows nothing of PyTorch's.
        torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return logits


def provider_options(word: str, request: EngineRequest, path: Path) -> dict[str, str]:
    """Return the options of a provider, as ONNX Runtime wants them: all strings.

    Args:
        word: A key of `PROVIDERS`.
        request: What the engine was asked to be.
        path: The ONNX file. Engines that a provider builds are kept in the user's cache folder,
            by what the file holds: they have its weights, and its name may be that of another.
    """
    if word == "cpu":
        return {}
    index = str(request.device.index or 0)
    if word == "cuda":
        allows_tf32 = torch.get_float32_matmul_precision() != "highest"
        return {"device_id": index, "use_tf32": "1" if allows_tf32 else "0"}
    least, optimal, most = (
        f"{_INPUT}:{count}x3x{request.image_size}x{request.image_size}"
        for count in (1, request.optimal_batch_size, request.max_batch_size)
    )
    if word == "tensorrt_rtx":
        return {
            "nv_profile_min_shapes": least,
            "nv_profile_opt_shapes": optimal,
            "nv_profile_max_shapes": most,
            "nv_runtime_cache_path": _built_by(word, path),
        }
    return {
        "device_id": index,
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": optimal,
        "trt_profile_max_shapes": most,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": _built_by(word, path),
        # TensorRT 10 computes what the graph says in half precision only where it is allowed to.
        "trt_fp16_enable": "1" if request.precision == "fp16" else "0",
        "trt_bf16_enable": "1" if request.precision == "bf16" else "0",
    }


def _built_by(word: str, path: Path) -> str:
    """Name the folder of what a provider builds from a file."""
    return str(default_cache_dir() / "engines" / f"{word}_{sha256_of(path)[:32]}")


def _available() -> list[str]:
    """List the providers that are installed, with the one of a package of its own."""
    import onnxruntime

    found = list(onnxruntime.get_available_providers())
    if (
        importlib.util.find_spec(_RTX_PACKAGE) is not None
        and PROVIDERS["tensorrt_rtx"] not in found
    ):
        found.append(PROVIDERS["tensorrt_rtx"])
    return found


def _append_rtx(options: Any, request: EngineRequest, path: Path) -> None:
    """Register the provider of the package and give it the device."""
    import onnxruntime

    package = importlib.import_module(_RTX_PACKAGE)
    name = package.get_ep_name()
    with contextlib.suppress(Exception):  # it is registered once per process
        onnxruntime.register_execution_provider_library(name, package.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    index = request.device.index or 0
    if index >= len(devices):
        raise FaultError(f"{name} does not see {request.device}")
    options.add_provider_for_devices(
        [devices[index]], provider_options("tensorrt_rtx", request, path)
    )
