"""What `gpuopt find_batch_size` is asked, and what follows from how much fits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuopt.hardware import AbsentGpu, Gpu, choose_image_size, resolve_precision
from gpuopt.memory import LARGEST_PREDICTION, MemorySetup, cut_global_batch
from gpuopt.recomputation import NONE
from gpuopt.session.memory import memory_setup

__all__ = ["FindRequest"]


@dataclass(frozen=True)
class FindRequest:
    """The settings of `gpuopt find_batch_size`.

    Attributes:
        purpose: `train`, `predict` or `tta`.
        gpu: A preset, or nothing but a memory; `auto` is the card that is there.
        catalogue: All presets by the name that `gpu=` takes.
        model: The model's settings.
        optimizer: The optimizer's settings with `_target_`.
        precision: `auto` or a name.
        image_size: `auto` or pixels.
        per_device: Samples of a global batch on each device.
        moving_average: Whether the weights are averaged.
        clips_gradients: Whether gradients are clipped.
        aggressive: Whether to look for the smallest headroom that a probe confirms.
        minimum: Samples that must fit.
        maximum: Samples that are not exceeded; None: what fits.
        target: Samples that must fit as well; None: no more than the minimum.
        cache_dir: Folder of all caches; None means the user's cache folder.
        keeps: Whether new predictions are kept in it.
    """

    purpose: str
    gpu: AbsentGpu
    catalogue: Mapping[str, Gpu]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    precision: str = "auto"
    image_size: int | str = "auto"
    per_device: int = 1
    moving_average: bool = False
    clips_gradients: bool = True
    aggressive: bool = False
    minimum: int = 1
    maximum: int | None = None
    target: int | None = None
    cache_dir: str | None = None
    keeps: bool = True

    @property
    def trains(self) -> bool:
        """Whether the batch is for training."""
        return self.purpose == "train"

    @property
    def key(self) -> str:
        """The setting that takes the answer."""
        return "micro_batch_size" if self.trains else "batch_size"

    @property
    def checkpointing(self) -> str:
        """Level of activation checkpointing; inference has nothing to recompute."""
        return str(self.model.get("checkpointing", NONE)) if self.trains else NONE

    def with_checkpointing(self, level: str) -> "FindRequest":
        """Ask the same of a model that recomputes more or less."""
        return replace(self, model={**self.model, "checkpointing": level})

    @property
    def offloads(self) -> bool:
        """Whether the optimizer's state lies in host memory."""
        return bool(self.optimizer.get("offload"))

    def with_offload(self, offloads: bool) -> "FindRequest":
        """Ask the same with the optimizer's state elsewhere."""
        return replace(self, optimizer={**self.optimizer, "offload": offloads})

    def size_on(self, card: Gpu) -> int:
        """Return the side of the images in pixels on a card, as training chooses it."""
        return int(choose_image_size(self.image_size, card).value)

    def setup_on(self, card: Gpu) -> MemorySetup:
        """Describe what runs on a card to the predictor.

        Raises:
            InputError: When the card cannot compute in the precision.
        """
        setup = memory_setup(
            self.model,
            self.size_on(card),
            str(resolve_precision(self.precision, card, is_cuda=True).value),
            optimizer=self.optimizer,
            moving_average=self.moving_average,
            clips_gradients=self.clips_gradients,
        )
        return replace(setup, checkpointing=self.checkpointing, training=self.trains)

    def bounded(self, largest: int) -> int:
        """Return the largest batch that may be taken of what fits."""
        wanted = max(LARGEST_PREDICTION, self.minimum, self.target or 0)
        return min(largest, self.maximum or (largest if self.trains else wanted))

    def choose(self, largest: int) -> tuple[int, str]:
        """Choose the batch when up to `largest` samples fit.

        A global batch is cut by `cut_global_batch`. Nothing is chosen of nothing: 0.

        Returns:
            The samples, and the clause that says why.
        """
        most = self.bounded(largest)
        why = f"{largest} fit" + ("" if most == largest else f", up to {most} are taken")
        if not self.trains or most < 1:
            return most, why
        best = cut_global_batch(most, self.per_device)
        value = best.micro_batch_size
        return value, f"{why}; {self.per_device} in {best.accumulate_grad_batches} of up to {value}"

    def shortfall(
        self, largest: int, where: str, levels: Mapping[str, int] | None = None
    ) -> str | None:
        """Say what must fit and does not, what fits instead, and what to do; None when all fits.

        Args:
            largest: What fits.
            where: Words for the card.
            levels: What would fit by level of checkpointing, least first.
        """
        for key, samples in (("target", self.target), ("min_batch_size", self.minimum)):
            if samples is not None and largest < samples:
                deeper = self._deeper(levels or {})
                level = next((name for name, fit in deeper.items() if fit >= samples), None)
                remedy = "take a smaller image_size or model, or free the card"
                if level is not None:
                    remedy = f"model.checkpointing={level} is predicted to reach it"
                fit = f"{largest} fit" if largest else "not one sample fits"
                return f"{key}={samples}: {fit} {where}; {remedy}"
        return None

    def _deeper(self, levels: Mapping[str, int]) -> dict[str, int]:
        """Leave out the levels up to the one that is asked about."""
        names = list(levels)
        first = names.index(self.checkpointing) + 1 if self.checkpointing in levels else 0
        return {name: levels[name] for name in names[first:]}
