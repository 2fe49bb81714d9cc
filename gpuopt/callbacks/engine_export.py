"""Write an engine of the trained network when training ends."""

import copy
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from gpuopt.data import ImageDataModule, real_images
from gpuopt.engine.backends import file_backend
from gpuopt.engine.choices import engine_precision
from gpuopt.engine.export import choose_engine, export_engine
from gpuopt.engine.exporting import first_line
from gpuopt.engine.fallback import ProofImages
from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.engine.trained import network_of
from gpuopt.engine.verification import Bounds
from gpuopt.errors import GpuoptError, InputError
from gpuopt.steps.batch_parts import tensors_of
from gpuopt.steps.trainer_parts import callbacks_of, data_module_of
from gpuopt.storage.checkpoint import read_checkpoint

__all__ = ["EngineExport", "TensorRTExport"]

_log = logging.getLogger(__name__)


class EngineExport(L.Callback):
    """Builds and proves an engine of the best weights, on rank 0, once the fit is over.

    Nothing that goes wrong here spoils the training: the reason is logged as one line. Works in
    any Trainer, for a module that holds its network in one attribute. The proof compares the
    engine with PyTorch on the validation images; where batches hold none as uint8 tensors, the
    engine is written without it, and a warning says so.

    Args:
        engine: `auto`, `aot_inductor`, `onnx` or `tensorrt`.
        precision: `auto` (fp16 on a GPU), `fp32`, `fp16` or `bf16`.
        max_batch_size: Most images per call.
        optimal_batch_size: Images per call that kernels are tuned for; None: the most.
        output: The file; None: `engines/ENGINE_PRECISION` beside the checkpoints, else in the
            Trainer's `default_root_dir`.
        backbone: Name of the module's attribute that maps normalised images to logits.
        mean: Per channel, for pixels in 0..255; None takes the module's buffer `mean`.
        std: Per channel, for pixels in 0..255; None takes the module's buffer `std`.
        image_size: In pixels; None takes it from the validation images.
        cache_dir: Folder of all caches; None means the user's cache folder.

    Attributes:
        path: The file that was written; None while there is none.
    """

    def __init__(
        self,
        engine: str = "auto",
        precision: str = "auto",
        max_batch_size: int = 64,
        optimal_batch_size: int | None = None,
        output: str | None = None,
        backbone: str = "backbone",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        image_size: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.path: Path | None = None
        self._engine = engine
        self._precision = precision
        self._max_batch_size = max_batch_size
        self._optimal_batch_size = optimal_batch_size or max_batch_size
        self._output = output
        self._backbone = backbone
        self._mean = mean
        self._std = std
        self._image_size = image_size
        self._cache_dir = cache_dir

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the engine."""
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        try:
            self.path = self._export(trainer, pl_module)
        except Exception as error:  # loaders and networks of others raise anything
            reason = str(error) if isinstance(error, GpuoptError) else first_line(error)
            _log.warning("no engine was written: %s", reason)
        else:
            _log.info("engine in %s", self.path)

    def _export(self, trainer: L.Trainer, module: L.LightningModule) -> Path:
        proof = _proof_images(trainer, Bounds().least_images)
        size = self._image_size or (proof.images.shape[-1] if proof is not None else None)
        if size is None:
            raise InputError(
                "the validation images are no uint8 tensors, so nothing tells their size: give "
                "image_size"
            )
        if proof is None:
            _log.warning(
                "the validation batches hold no uint8 images, so the engine is not compared with "
                "PyTorch"
            )
        # Not the module's: Lightning has put it back on the CPU when a fit ends.
        device = trainer.strategy.root_device
        network = network_of(
            _with_best_weights(trainer, module).to(device),
            backbone=self._backbone,
            mean=self._mean,
            std=self._std,
        )
        request = EngineRequest(
            size,
            _classes_of(network, size),
            str(engine_precision(self._precision, device).value),
            self._optimal_batch_size,
            self._max_batch_size,
            device,
        )
        engine = str(choose_engine(self._engine, request, "auto").value)
        return export_engine(
            engine,
            request,
            network,
            self._place(trainer, engine, request.precision),
            None if proof is None else lambda: proof,
            cache_dir=self._cache_dir,
            provider="auto",
            tell=lambda line: _log.info("%s", line),
        ).path

    def _place(self, trainer: L.Trainer, engine: str, precision: str) -> Path:
        if self._output is not None:
            return Path(self._output).expanduser()
        best = _best_path(trainer)
        root = best.parent.parent if best is not None else Path(trainer.default_root_dir)
        backend = file_backend(engine)
        assert backend is not None  # an engine that is a file was chosen
        return root / "engines" / f"{engine}_{precision}{backend.suffix}"


class TensorRTExport(EngineExport):
    """Builds and proves a TensorRT engine; see `EngineExport`.

    Args:
        precision: `fp16`, `bf16` or `fp32`.
        max_batch_size: Most images per call.
        optimal_batch_size: Images per call that kernels are tuned for; None: the most.
        output: As for `EngineExport`.
        backbone: As for `EngineExport`.
        mean: As for `EngineExport`.
        std: As for `EngineExport`.
        image_size: As for `EngineExport`.
        cache_dir: As for `EngineExport`.
    """

    def __init__(
        self,
        precision: str = "fp16",
        max_batch_size: int = 64,
        optimal_batch_size: int | None = None,
        output: str | None = None,
        backbone: str = "backbone",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        image_size: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            "tensorrt",
            precision,
            max_batch_size,
            optimal_batch_size,
            output,
            backbone,
            mean,
            std,
            image_size,
            cache_dir,
        )


def _best_path(trainer: L.Trainer) -> Path | None:
    """Find the best checkpoint that a callback of this Trainer has written."""
    for callback in callbacks_of(trainer):
        found: Any = getattr(callback, "best_path", None) or getattr(
            callback, "best_model_path", None
        )
        if found and Path(found).is_file():
            return Path(found)
    return None


def _with_best_weights(trainer: L.Trainer, module: L.LightningModule) -> nn.Module:
    """Copy a module with the weights of the best checkpoint; with its own where there is none."""
    trainer_of = module._trainer
    module._trainer = None  # it cannot be copied
    try:
        own = copy.deepcopy(module)
    finally:
        module._trainer = trainer_of
    best = _best_path(trainer)
    if best is not None:
        state = read_checkpoint(best).get("state_dict", {})
        known = own.state_dict()
        own.load_state_dict({**known, **{k: v for k, v in state.items() if k in known}})
    return own.eval()


def _proof_images(trainer: L.Trainer, count: int) -> ProofImages | None:
    """Collect uint8 validation images; None when batches hold none."""
    data = data_module_of(trainer)
    if isinstance(data, ImageDataModule):
        return ProofImages(*real_images(data, count))
    loaders: Any = trainer.val_dataloaders
    images: list[Tensor] = []
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        missing = count - sum(map(len, images))
        if loader is not None and missing > 0:
            images += _images_of(loader, missing)
    if not images:
        return None
    joined = torch.cat(images)[:count]
    return ProofImages(joined, tuple(f"validation {row}" for row in range(len(joined))))


def _images_of(loader: Any, count: int) -> list[Tensor]:
    """Take batches of uint8 images until there are enough; none where the first has none."""
    images: list[Tensor] = []
    for batch in loader:
        tensors = tensors_of(batch)
        found = next((t for t in tensors if t.ndim == 4 and t.dtype == torch.uint8), None)
        if found is None:
            break
        images.append(found)
        if sum(map(len, images)) >= count:
            break
    return images


@torch.no_grad()
def _classes_of(network: TrainedNetwork, size: int) -> int:
    device = next(network.backbone.parameters()).device
    return int(network.backbone(torch.zeros(1, 3, size, size, device=device)).shape[-1])
