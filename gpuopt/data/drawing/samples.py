"""The fixed list of samples: which class and which disturbance stands at each place."""

from dataclasses import dataclass

from PIL import Image

from gpuopt.data.drawing.catalogue import SAMPLES_PER_CLASS, draw_document
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.disturbance import CLEAN, Disturbance, disturb, draw_disturbance

__all__ = ["GENERATOR_VERSION", "SPLITS", "Sample", "draw_sample", "list_samples"]

GENERATOR_VERSION = 1
"""Rises whenever any image, label or disturbance changes."""

SPLITS = ("train", "test")

_ORDER, _HOW, _PAGE, _NOISE = range(4)  # streams of chance that never share a number


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of the set before it is drawn.

    Attributes:
        seed: Seed of the set.
        split: Row in `SPLITS`.
        index: Place in the split.
        target: Row in `CLASS_NAMES`.
        disturbance: What happens to it; training images stay clean.
    """

    seed: int
    split: int
    index: int
    target: int
    disturbance: Disturbance

    @property
    def file_name(self) -> str:
        """Name of its file in the folder of its split."""
        return f"{self.index:05}.jpg"


def list_samples(seed: int, split: str, count: int) -> list[Sample]:
    """List the first samples of a split.

    A shorter list is the beginning of a longer one, and every beginning holds the classes in
    nearly the same proportions: the k-th of a class's n samples stands about (k + 0.5) / n of
    the way through each block of 1,570.

    Args:
        seed: Seed of the set.
        split: `train` or `test`.
        count: How many samples to list.
    """
    number, block = SPLITS.index(split), sum(SAMPLES_PER_CLASS)
    targets: list[int] = []
    while len(targets) < count:
        dice = Dice(seed, _ORDER, number, len(targets) // block)
        places = [
            ((place + dice.uniform(0, 1)) / per_class, target)
            for target, per_class in enumerate(SAMPLES_PER_CLASS)
            for place in range(per_class)
        ]
        targets += [target for _, target in sorted(places)]
    return [
        Sample(
            seed,
            number,
            index,
            target,
            draw_disturbance(Dice(seed, _HOW, number, index)) if split == "test" else CLEAN,
        )
        for index, target in enumerate(targets[:count])
    ]


def draw_sample(sample: Sample, size_px: int) -> Image.Image:
    """Draw one RGB image.

    Args:
        sample: Which one.
        size_px: Longest side in pixels.
    """
    place = sample.split, sample.index
    image, ground = draw_document(sample.target, Dice(sample.seed, _PAGE, *place), size_px)
    return disturb(image, sample.disturbance, Dice(sample.seed, _NOISE, *place), ground)
