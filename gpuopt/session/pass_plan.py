"""How many images go through a model at once, and how many models of folds share a pass."""

import math
from dataclasses import dataclass

from gpuopt.choice import Choice, Evidence
from gpuopt.errors import InputError
from gpuopt.hardware import host_memory_bytes
from gpuopt.memory import MemoryEstimate, MemorySetup, cut_global_batch, predict_memory
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.weights import ModelDescription
from gpuopt.tta import TestTimeAugmentation

__all__ = ["LARGEST_ON_CPU", "PassPlan", "plan_passes"]

LARGEST_ON_CPU = 32
"""Images per forward: more take memory, and no less time."""

# So many images keep a card busy; fewer are not accepted only to save a pass over the images.
_ENOUGH = 32
_SHARE_OF_HOST = 4


@dataclass(frozen=True)
class PassPlan:
    """What a prediction does at once.

    Attributes:
        chunk_size: Images per forward.
        models_per_pass: Models that are in memory together; each pass goes over all images.
        choices: Both, where something was left to gpuopt.
    """

    chunk_size: int
    models_per_pass: int
    choices: tuple[Choice, ...]

    def groups(self, models: int) -> list[range]:
        """Deal models into passes, in their order."""
        size = self.models_per_pass
        return [range(first, min(first + size, models)) for first in range(0, models, size)]


def plan_passes(
    setup: PredictionSetup,
    policy: TestTimeAugmentation,
    description: ModelDescription,
    *,
    models: int,
    weights_bytes: int,
    folds_per_pass: int | str = "auto",
    cache_dir: str | None = None,
) -> PassPlan:
    """Choose the chunk and the models of a pass by the memory that there is.

    Args:
        setup: Device, card, precision and batch.
        policy: The views, whose `chunk_size` may be `auto`.
        description: Of the models, which are alike.
        models: How many predict together.
        weights_bytes: Parameters and buffers of one.
        folds_per_pass: `auto`, or the number of models in memory together.
        cache_dir: Folder of memory predictions; None means the user's cache folder.

    Raises:
        InputError: When not one image fits beside the weights.
    """
    is_cuda = setup.device == "cuda"
    room = _Room.of(setup, description, weights_bytes, cache_dir) if is_cuda else None
    if folds_per_pass != "auto":
        asked = min(int(folds_per_pass), models)
        together = Choice("folds_per_pass", asked, "given", "asked for")
    elif is_cuda:
        together = _models_on_card(room, models)
    else:
        together = _models_on_host(weights_bytes, models)
    work = setup.batch_size * len(policy.views)
    if policy.chunk_size != "auto":
        chunk = Choice("tta.chunk_size", int(policy.chunk_size), "given", "asked for")
    elif is_cuda:
        chunk = _chunk_on_card(room, int(together.value), setup.batch_size, work)
    else:
        most = min(LARGEST_ON_CPU, setup.batch_size)
        chunk = _chunk(most, work, "table", f"a batch, at most {LARGEST_ON_CPU} on a CPU")
    choices = (chunk, together) if models > 1 else (chunk,)
    return PassPlan(int(chunk.value), int(together.value), choices)


@dataclass(frozen=True)
class _Room:
    """What fits on a card, as predicted."""

    estimate: MemoryEstimate
    budget_bytes: int
    weights_bytes: int

    @classmethod
    def of(
        cls,
        setup: PredictionSetup,
        description: ModelDescription,
        weights_bytes: int,
        cache_dir: str | None,
    ) -> "_Room | None":
        """Predict a model's memory; None where timm's model cannot be followed without data."""
        name, size = description.model, description.image_size
        memory = MemorySetup(name, size, setup.precision, training=False)
        try:
            estimate = predict_memory(memory, cache_dir=cache_dir)
        except InputError:
            return None
        return cls(estimate, setup.gpu.budget_bytes(), weights_bytes)

    def images(self, models: int) -> int:
        """Count the images per forward that fit beside the weights of several models."""
        return self.estimate.largest_batch(self.budget_bytes - (models - 1) * self.weights_bytes)


def _models_on_card(room: _Room | None, models: int) -> Choice:
    if room is None:
        return Choice("folds_per_pass", 1, "table", "the model's memory cannot be predicted")
    alone = room.images(1)
    together = models
    while together > 1 and room.images(together) < min(alone, _ENOUGH):
        together -= 1
    reason = (
        f"{room.images(together)} images fit beside the weights of {together}, {alone} beside "
        "those of one"
    )
    return _models(models, together, "predicted", reason)


def _models_on_host(weights_bytes: int, models: int) -> Choice:
    room_bytes = host_memory_bytes() // _SHARE_OF_HOST
    reason = (
        f"{_gib(weights_bytes)} of weights each, {_gib(room_bytes)} for them, a quarter of the "
        "host's memory"
    )
    return _models(models, max(1, room_bytes // weights_bytes), "measured", reason)


def _models(models: int, most: int, evidence: Evidence, reason: str) -> Choice:
    """Take as few passes as possible, and as equal ones."""
    passes = math.ceil(models / most)
    plural = "es" if passes > 1 else ""
    reason = f"{reason}; {passes} pass{plural} over the images"
    return Choice("folds_per_pass", math.ceil(models / passes), evidence, reason)


def _chunk_on_card(room: _Room | None, models: int, batch_size: int, work: int) -> Choice:
    if room is None:
        reason = "a batch, as the model's memory cannot be predicted"
        return _chunk(batch_size, work, "table", reason)
    fit = room.images(models)
    if fit < 1:
        raise InputError(
            f"not one image fits beside the weights of {models} models within "
            f"{_gib(room.budget_bytes)}: give folds_per_pass={max(1, models // 2)}, or a smaller "
            "model or image_size"
        )
    reason = f"{fit} fit into {_gib(room.budget_bytes)}, a batch has {batch_size}"
    return _chunk(min(fit, batch_size), work, "predicted", reason)


def _chunk(most: int, work: int, evidence: Evidence, reason: str) -> Choice:
    """Cut a batch's views into as few and as equal chunks as possible: what is left is padding."""
    best = cut_global_batch(most, work)
    reason = f"{reason}; {work} views of a batch in {best.accumulate_grad_batches}"
    return Choice("tta.chunk_size", best.micro_batch_size, evidence, reason)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
