"""A file of weights of any origin as a trained network: .ckpt, .pth or .safetensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from timm.data.config import resolve_model_data_config
from torch import Tensor

from gpuopt.engine.protocol import TrainedNetwork
from gpuopt.engine.trained import network_of
from gpuopt.errors import InputError
from gpuopt.model import ImageNetwork
from gpuopt.session.weights import ModelDescription, load_described
from gpuopt.storage.checkpoint import read_checkpoint

__all__ = ["LoadedNetwork", "load_network"]

# Under these keys others keep the weights, and these are put before the names of parameters.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.")
_HEADS = ("classifier", "fc", "head", "head.fc")


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights.

    Attributes:
        network: In evaluation mode, on the CPU.
        image_size: Side of the images in pixels.
        num_classes: Width of the logits.
        description: As a checkpoint of gpuopt has it; where classes have no names, their numbers.
    """

    network: TrainedNetwork
    image_size: int
    num_classes: int
    description: ModelDescription


def load_network(
    path: Path,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> LoadedNetwork:
    """Load weights; a checkpoint of gpuopt says itself what it is.

    Args:
        path: `.ckpt`, `.pth`, `.pt` or `.safetensors`.
        model: timm model name, for a file that does not name it.
        num_classes: For a file that does not tell; None reads it from the head.
        image_size: In pixels; None takes what the file says, else what timm says.

    Raises:
        InputError: When the file is damaged, would run code, does not fit the model, or says that
            it is of another one than was given.
    """
    if path.suffix.lower() == ".safetensors":
        state, told = _read_safetensors(path)
    else:
        checkpoint = read_checkpoint(path)
        if "gpuopt" in checkpoint:
            return _described(checkpoint, path, model, num_classes, image_size)
        state, told = _state_of(checkpoint, path), {}
    name = model or told.get("model")
    if name is None:
        raise InputError(f"{path} does not name its model: give model=..., such as model=resnet50")
    classes = num_classes or _classes_of(state)
    if not classes:
        raise InputError(f"the head in {path} does not tell the number of classes: num_classes=N")
    return _built(str(name), classes, state, told, path, image_size)


def _described(
    checkpoint: Mapping[str, Any],
    path: Path,
    name: str | None,
    num_classes: int | None,
    image_size: int | None,
) -> LoadedNetwork:
    model, description = load_described(checkpoint, str(path))
    classes = len(description.class_names)
    # What follows a dot names pretrained weights, of which nothing is left.
    if name is not None and name.split(".")[0] != description.model.split(".")[0]:
        raise InputError(f"model={name}: {path} says itself that it is {description.model}")
    if num_classes not in (None, classes):
        raise InputError(f"num_classes={num_classes}: {path} says itself that it has {classes}")
    description = replace(description, image_size=image_size or description.image_size)
    return LoadedNetwork(network_of(model), description.image_size, classes, description)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stream:
            told = dict(stream.metadata() or {})
            names = stream.keys()
            return {name: stream.get_tensor(name) for name in names}, told
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no file of weights, or damaged: {error}") from error


def _state_of(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Find the weights among what else a training program keeps."""
    found: Any = next(
        (checkpoint[key] for key in _CONTAINERS if isinstance(checkpoint.get(key), dict)),
        checkpoint,
    )
    state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path} holds no weights")
    changed = True
    while changed:  # such as module.model.
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        changed = prefix is not None
        state = {name.removeprefix(prefix or ""): value for name, value in state.items()}
    return state


def _classes_of(state: Mapping[str, Tensor]) -> int | None:
    heads = [state.get(f"{name}.weight") for name in _HEADS]
    return next((len(head) for head in heads if head is not None and head.ndim), None)


def _built(
    name: str,
    classes: int,
    state: Mapping[str, Tensor],
    told: Mapping[str, str],
    path: Path,
    image_size: int | None,
) -> LoadedNetwork:
    model = ImageNetwork(name, classes).eval()
    try:
        model.backbone.load_state_dict(dict(state))
    except RuntimeError as error:
        difference = str(error).splitlines()[1:2] or [str(error)]
        raise InputError(
            f"{path} holds the weights of another model than {name} with {classes} classes: "
            f"{difference[0].strip()[:200]}"
        ) from error
    for part in ("mean", "std"):
        if part in told:
            _set_channels(model, part, told[part], path)
    size = image_size or int(resolve_model_data_config(model.backbone)["input_size"][-1])
    network = network_of(model)
    names = tuple(map(str, range(classes)))
    description = ModelDescription(name, names, size, network.mean, network.std)
    return LoadedNetwork(network, size, classes, description)


def _set_channels(model: ImageNetwork, name: str, text: str, path: Path) -> None:
    """Take normalisation from the metadata, which is in the unit 0..1."""
    try:
        values = [255 * float(value) for value in json.loads(text)]
        if not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            raise ValueError("no normalisation")
        buffer = model.get_buffer(name)
        buffer.copy_(buffer.new_tensor(values).view_as(buffer))
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{path}: its metadata has no three numbers for {name} that can normalise images"
        ) from error
