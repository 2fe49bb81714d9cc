"""What a checkpoint says about its model, so that the file alone is enough to predict with."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save
from torch import Tensor

from gpuopt.errors import InputError
from gpuopt.storage import atomic_write

if TYPE_CHECKING:  # importing it takes seconds
    from gpuopt.model import ImageNetwork

__all__ = [
    "ModelDescription",
    "build_described",
    "describe_model",
    "export_weights",
    "load_described",
    "load_weights",
    "read_description",
    "require_weights_of",
    "weights_of",
]

_SCHEMA = 1
_CHANNELS = 3
_IMAGE_SIDES = range(8, 4097)
# ImageNet-21k has 21,841; a head of millions would fill the memory before its weights are read.
_CLASS_COUNTS = range(2, 100_001)


@dataclass(frozen=True)
class ModelDescription:
    """Model and data as a checkpoint names them.

    Attributes:
        model: timm model name.
        class_names: In the order of the logits.
        image_size: Side in pixels.
        mean: Per channel, for pixels in 0..255.
        std: Per channel, for pixels in 0..255.
    """

    model: str
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def describe_model(
    model: "ImageNetwork", class_names: Sequence[str], image_size: int
) -> dict[str, Any]:
    """Describe a model in plain values, which `weights_only=True` loads."""
    return {
        "schema": _SCHEMA,
        "model": model.name,
        "class_names": list(class_names),
        "image_size": image_size,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
    }


def read_description(checkpoint: Mapping[str, Any], where: str) -> ModelDescription:
    """Read the description of a loaded checkpoint.

    Args:
        checkpoint: From `read_checkpoint`.
        where: Its path, for messages.

    Raises:
        InputError: When gpuopt did not write it, or what it says makes no sense.
    """
    found = checkpoint.get("gpuopt")
    if not isinstance(found, dict) or found.get("schema") != _SCHEMA:
        raise InputError(f"{where} was not written by gpuopt: it does not describe its model")
    model, names, size = (found.get(key) for key in ("model", "class_names", "image_size"))
    mean, std = _channels(found.get("mean")), _channels(found.get("std"))
    for key, is_good in (
        ("model", isinstance(model, str) and model != ""),
        ("class_names", _are_class_names(names)),
        ("image_size", type(size) is int and size in _IMAGE_SIDES),
        ("mean", mean is not None),
        ("std", std is not None and min(std) > 0),
    ):
        if not is_good:
            raise InputError(
                f"{where} describes its model wrongly: {key} is missing or makes no sense; "
                "use another checkpoint"
            )
    assert mean is not None  # checked above, as all others
    assert std is not None
    return ModelDescription(str(model), tuple(found["class_names"]), int(size or 0), mean, std)


def load_described(
    checkpoint: Mapping[str, Any], where: str
) -> tuple["ImageNetwork", ModelDescription]:
    """Rebuild the model of a checkpoint in evaluation mode, with its weights and normalisation.

    Raises:
        InputError: When the weights do not belong to the model that the checkpoint names.
    """
    model, description = build_described(checkpoint, where)
    load_weights(model, checkpoint, where)
    return model, description


def build_described(
    checkpoint: Mapping[str, Any], where: str
) -> tuple["ImageNetwork", ModelDescription]:
    """Rebuild the model of a checkpoint in evaluation mode; `load_weights` has to follow.

    Raises:
        InputError: When its model cannot be built.
    """
    from gpuopt.model import ImageNetwork
    from gpuopt.model.without_values import WithoutValues

    description = read_description(checkpoint, where)
    try:
        with WithoutValues():  # `load_weights` gives every parameter one, or refuses
            model = ImageNetwork(description.model, len(description.class_names))
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where}: its model {description.model!r} cannot be built ({type(error).__name__}): "
            "install the version of timm that it was trained with"
        ) from error
    for name, values in (("mean", description.mean), ("std", description.std)):
        buffer = model.get_buffer(name)
        buffer.copy_(buffer.new_tensor(values).view_as(buffer))
    return model.eval(), description


def load_weights(model: "ImageNetwork", checkpoint: Mapping[str, Any], where: str) -> None:
    """Load the weights of a checkpoint into a model.

    Raises:
        InputError: When they belong to another model or another number of classes.
    """
    require_weights_of(model, checkpoint, where)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:  # such as a tensor without data
        raise InputError(f"{where} holds weights that cannot be copied: it is damaged") from error


def weights_of(checkpoint: Mapping[str, Any], where: str) -> Mapping[str, Tensor]:
    """Return the weights of a checkpoint by name.

    Raises:
        InputError: When it holds none.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{where} holds no weights (state_dict)")
    return state


def require_weights_of(model: "ImageNetwork", checkpoint: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint whose weights have other names or shapes than the model's.

    Raises:
        InputError: Names the first difference.
    """
    state, own = weights_of(checkpoint, where), model.state_dict()
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    reshaped = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or reshaped:
        example = sorted(map(str, [*missing, *extra, *reshaped]))[0]
        raise InputError(
            f"{where} holds the weights of another model than {model.name} with "
            f"{model.num_classes} classes: {len(missing) + len(extra) + len(reshaped)} tensors "
            f"differ, for example {example}"
        )


def _are_class_names(names: Any) -> bool:
    return (
        isinstance(names, list)
        and len(names) in _CLASS_COUNTS
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names)
    )


def _channels(values: Any) -> tuple[float, ...] | None:
    """Return three finite numbers, or None when they are something else."""
    if not isinstance(values, list) or len(values) != _CHANNELS:
        return None
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        return None
    return tuple(map(float, values))


def export_weights(model: "ImageNetwork", class_names: Sequence[str], path: Path) -> None:
    """Write the backbone's weights for other programs, in timm's own names.

    Args:
        model: Its `backbone` is written; `timm.create_model(name, num_classes=n)` loads it.
        class_names: Stored in the file's metadata with name, mean and standard deviation.
        path: A `.safetensors` file.
    """
    weights = {
        name: value.cpu().contiguous() for name, value in model.backbone.state_dict().items()
    }
    metadata = {
        "model": model.name,
        "class_names": json.dumps(list(class_names), ensure_ascii=False),
        "mean": json.dumps([value / 255 for value in model.mean.flatten().tolist()]),
        "std": json.dumps([value / 255 for value in model.std.flatten().tolist()]),
    }
    with atomic_write(path) as stream:
        stream.write(save(weights, metadata))
