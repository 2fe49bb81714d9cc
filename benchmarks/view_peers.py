"""Other ways to predict views of image files: ttach, and one pass and loader per view.

All have the same network and precision, and end with the mean of the views' probabilities on the
host. The peers load as PyTorch's tutorials do: PIL decodes and fits an image into a white square,
and a DataLoader makes batches.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from benchmarks.loader import Letterbox
from gpuopt.tta import View, parse_views

__all__ = ["VIEWS", "PeerSetting", "has_ttach", "per_view_pass", "ttach_model", "ttach_pass"]

_TURNS = (0, 90, 180, 270)
VIEWS: tuple[View, ...] = parse_views(
    [
        {**({"hflip": True} if flip else {}), **({"rotate": turn} if turn else {})}
        for flip in (False, True)
        for turn in _TURNS
    ]
)
"""Four quarter turns of the image and of its mirror image, which move pixels exactly."""


@dataclass(frozen=True)
class PeerSetting:
    """What the contestants have in common.

    Attributes:
        files: The images, in order.
        model: In evaluation mode on its device; maps images in 0..255 to logits.
        image_size: Side in pixels.
        batch_size: Images per forward.
        workers: Loader processes.
        device: Where the model is.
        autocast: Makes the context in which it runs.
    """

    files: Sequence[Path]
    model: nn.Module
    image_size: int
    batch_size: int
    workers: int
    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]

    def loader(self, turn: int = 0, *, flip: bool = False) -> DataLoader[Tensor]:
        """Decode, resize and turn every file once."""
        return DataLoader(
            _Files(self.files, self.image_size, turn, flip),
            self.batch_size,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )


def per_view_pass(setting: PeerSetting) -> Tensor:
    """Go over all files once for each view, as the seed guide does.

    Returns:
        Mean probabilities, float32 [n, classes] on the host.
    """
    total = None
    for flip in (False, True):
        for turn in _TURNS:
            of_view = _pass(setting, setting.model, setting.loader(turn, flip=flip))
            total = of_view if total is None else total + of_view
    assert total is not None  # there are eight views
    return total / len(VIEWS)


def ttach_pass(setting: PeerSetting) -> Tensor:
    """Predict all views of a batch with ttach's wrapper.

    Returns:
        Mean probabilities, float32 [n, classes] on the host.
    """
    return _pass(setting, ttach_model(setting.model), setting.loader(), are_probabilities=True)


def has_ttach() -> bool:
    """Tell whether ttach is installed."""
    return importlib.util.find_spec("ttach") is not None


def ttach_model(model: nn.Module) -> nn.Module:
    """Wrap a model so that it returns the mean probabilities of the views."""
    ttach = importlib.import_module("ttach")
    views = ttach.Compose([ttach.HorizontalFlip(), ttach.Rotate90(angles=list(_TURNS))])
    wrapped: nn.Module = ttach.ClassificationTTAWrapper(
        _Probabilities(model), views, merge_mode="mean"
    )
    return wrapped


class _Probabilities(nn.Module):
    """ttach averages what a model returns; the mean of logits is another prediction."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self._model(images).float(), dim=1)


class _Files(Dataset[Tensor]):
    def __init__(self, files: Sequence[Path], image_size: int, turn: int, flip: bool) -> None:
        self._files = files
        self._letterbox = Letterbox(image_size)
        self._turn = turn
        self._flip = flip

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> Tensor:
        with Image.open(self._files[row]) as image:
            small = self._letterbox(image.convert("RGB"))
        if self._flip:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._turn:
            small = small.rotate(self._turn)
        pixels: Tensor = functional.pil_to_tensor(small)
        return pixels


@torch.inference_mode()
def _pass(
    setting: PeerSetting,
    model: nn.Module,
    loader: DataLoader[Tensor],
    *,
    are_probabilities: bool = False,
) -> Tensor:
    parts = []
    for images in loader:
        with setting.autocast():
            said = model(images.to(setting.device, non_blocking=True))
        parts.append(said if are_probabilities else torch.softmax(said.float(), dim=1))
    return torch.cat(parts).cpu()
