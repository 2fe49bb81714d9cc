"""TensorRT, by torch-tensorrt: one engine of the whole graph, for this GPU only.

Written for TensorRT 10 and 11: networks are strongly typed, so the precision of a layer is that of
the graph (see `ServedModel`), and there are no builder flags for it. The engine holds two profiles
of batch sizes, see `batch_profiles`.
"""

import contextlib
import importlib
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuopt.engine.batch_profiles import BatchProfile, batch_profiles, fitted_batch
from gpuopt.engine.calls import padded, require_images
from gpuopt.engine.exporting import export_program, first_line
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.providers import RTX_CAPABILITIES
from gpuopt.errors import FaultError, InputError, one_line
from gpuopt.memory.device_errors import is_out_of_memory
from gpuopt.storage import atomic_write

__all__ = ["TensorRT", "build_arguments", "load_arguments"]

_RELEASE = "2.14"
_INSTALL = "pip install 'gpuopt[tensorrt]'"
_INPUT, _OUTPUT = "images", "logits"


class TensorRT:
    """Builds and loads TensorRT engines."""

    name = "tensorrt"
    suffix = ".engine"

    def unavailable(self, device: torch.device) -> str | None:
        """Say in one line why it cannot be used on a device; None when it can."""
        if device.type != "cuda":
            return "engine=tensorrt needs an NVIDIA GPU: use engine=onnx on a CPU"
        try:
            library = importlib.import_module("torch_tensorrt")
        except ModuleNotFoundError:
            return f"engine=tensorrt needs torch-tensorrt: {_INSTALL}"
        except Exception as error:  # without its libraries it raises plain Exception
            return one_line(f"torch-tensorrt cannot be loaded ({error}): {_INSTALL}", 300)
        if not str(library.__version__).startswith(f"{_RELEASE}."):
            return (
                f"torch-tensorrt {library.__version__} is installed, and engine=tensorrt is "
                f"written for {_RELEASE}: {_INSTALL}"
            )
        capability = torch.cuda.get_device_capability(device)
        if library.ENABLED_FEATURES.tensorrt_rtx and capability not in RTX_CAPABILITIES:
            return (
                f"TensorRT-RTX is installed, which is not for compute capability "
                f"{capability[0]}.{capability[1]}: install torch-tensorrt with TensorRT, "
                "or use engine=onnx"
            )
        return None

    def versions(self, device: torch.device) -> dict[str, str]:
        """Name the libraries that an engine depends on."""
        found = {}
        for name in ("torch-tensorrt", "tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(name)
        return found

    def build(self, request: EngineRequest, network: TrainedNetwork, path: Path) -> None:
        """Compile the network and write the serialised engine.

        Raises:
            InputError: When TensorRT is unavailable.
            FaultError: When the network cannot be compiled.
        """
        library = self._library(request.device)
        program = export_program(network, request, explicit_attention=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                # TensorRT's own place for it is one that all users of the machine can write to.
                timings = str(Path(folder) / "timing.cache")
                engine = library.dynamo.convert_exported_program_to_serialized_trt_engine(
                    program, **build_arguments(library, request), timing_cache_path=timings
                )
        except Exception as error:  # converters raise anything
            raise FaultError(
                f"{network.name} cannot be compiled by TensorRT ({first_line(error)}): take "
                "engine=onnx or engine=aot_inductor"
            ) from error
        with atomic_write(path) as stream:
            stream.write(engine)

    def load(self, request: EngineRequest, path: Path) -> Engine:
        """Load a file that `build` wrote for the same request.

        Raises:
            InputError: When TensorRT is unavailable.
            FaultError: When this GPU or this version of TensorRT does not take the file.
        """
        library = self._library(request.device)
        try:
            module = library.runtime.TorchTensorRTModule(
                path.read_bytes(), **load_arguments(library, request.device)
            )
        except Exception as error:  # TensorRT's runtime raises anything
            raise FaultError(f"{path} cannot be loaded ({first_line(error)})") from error
        return _TensorRTEngine(module, request)

    def _library(self, device: torch.device) -> Any:
        reason = self.unavailable(device)
        if reason is not None:
            raise InputError(reason)
        return importlib.import_module("torch_tensorrt")


class _TensorRTEngine:
    """A loaded engine; each call takes the profile of its batch."""

    name = "tensorrt"

    def __init__(self, module: Any, request: EngineRequest) -> None:
        self._module = module
        self._request = request
        self._profiles = batch_profiles(request.optimal_batch_size, request.max_batch_size)
        self._active: int | None = None
        self._too_large: int | None = None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._request.device

    @property
    def precision(self) -> str:
        """Of the bulk of its layers."""
        return self._request.precision

    @property
    def max_batch_size(self) -> int:
        """Most images per call."""
        return self._request.max_batch_size

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Classify images; see `Engine`."""
        require_images(images, self._request)
        count = len(images)
        place, size = fitted_batch(count, self._profiles, self._too_large)
        if place != self._active:
            self._module.set_optimization_profile(place)
            self._active = place
        try:
            logits: Tensor = self._module(padded(images, size).contiguous())
        except RuntimeError as error:
            if is_out_of_memory(error):  # a caller then comes with fewer
                self._too_large = min(size, self._too_large or size)
            raise
        return logits[:count]


def build_arguments(library: Any, request: EngineRequest) -> dict[str, Any]:
    """Name the arguments of `convert_exported_program_to_serialized_trt_engine`.

    Args:
        library: The package `torch_tensorrt`.
        request: What is asked for.
    """
    profiles = batch_profiles(request.optimal_batch_size, request.max_batch_size)
    return {
        "arg_inputs": (library.Input(**input_arguments(profiles, request.image_size)),),
        "arg_input_binding_names": (_INPUT,),
        "output_binding_names": _OUTPUT,
        "device": _device(library, request.device),
        # What TensorRT cannot run ends in an error, after which the next engine is tried.
        "require_full_compilation": True,
        # A batch of sums in fp16 would overflow where each of them is within range.
        "use_fp32_acc": request.precision == "fp16",
        # fp32 is what is left when half precision was rejected: it shall be exact.
        "disable_tf32": request.precision == "fp32",
        # Other weights are another engine; one whose weights can be exchanged is slower.
        "immutable_weights": True,
    }


def input_arguments(profiles: tuple[BatchProfile, ...], image_size: int) -> dict[str, Any]:
    """Name the arguments of `torch_tensorrt.Input` for uint8 images."""
    return {
        "profiles": [profile.shapes(image_size) for profile in profiles],
        "dtype": torch.uint8,
        "name": _INPUT,
    }


def load_arguments(library: Any, device: torch.device) -> dict[str, Any]:
    """Name the arguments of `TorchTensorRTModule`, beside the engine itself."""
    return {
        "input_binding_names": [_INPUT],
        "output_binding_names": [_OUTPUT],
        "name": "gpuopt",
        "settings": library.dynamo.CompilationSettings(device=_device(library, device)),
    }


def _device(library: Any, device: torch.device) -> Any:
    """Number the device: of one without a number torch-tensorrt makes a device called None."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return library.Device(gpu_id=index)
