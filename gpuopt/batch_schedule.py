"""Samples per optimizer step by epoch, and the learning rate that goes with them."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuopt.errors import InputError

__all__ = ["LEARNING_RATE_RULES", "BatchSchedule", "check_rule", "learning_rate_factor"]

# `linear`: Goyal et al. 2017 (arXiv:1706.02677), for SGD. `sqrt`: Malladi et al. 2022
# (arXiv:2205.10287), for Adam and its kin.
LEARNING_RATE_RULES = ("none", "linear", "sqrt")
_LARGEST = 10_000_000


@dataclass(frozen=True)
class BatchSchedule:
    """Global batch sizes, each from its epoch on.

    Attributes:
        sizes: Samples per optimizer step by epoch, counted from 0; has the epoch 0.
    """

    sizes: Mapping[int, int]

    @classmethod
    def of(
        cls, first: int, changes: Mapping[Any, Any] | None, where: str = "global_batch_schedule"
    ) -> "BatchSchedule":
        """Make a schedule from a first size and later changes.

        Args:
            first: Samples per step in epoch 0, unless the changes name that epoch.
            changes: Sizes by epoch.
            where: What the changes are called, for messages.

        Raises:
            InputError: For an epoch or a size that is none.
        """
        sizes = {0: _whole(first, 1, "global_batch_size")}
        for epoch, size in (changes or {}).items():
            name = f"{where}: epoch {epoch}"
            sizes[_whole(epoch, 0, where)] = _whole(size, 1, name)
        kept: dict[int, int] = {}
        for epoch, size in sorted(sizes.items()):
            if not kept or size != list(kept.values())[-1]:  # else nothing changes there
                kept[epoch] = size
        return cls(kept)

    @property
    def largest(self) -> int:
        """The largest size of all epochs."""
        return max(self.sizes.values())

    @property
    def changes(self) -> dict[int, int]:
        """Sizes by epoch after the first."""
        return {epoch: size for epoch, size in self.sizes.items() if epoch > 0}

    def at(self, epoch: int) -> int:
        """Return the samples per step in an epoch."""
        return self.sizes[max(start for start in self.sizes if start <= epoch)]

    def steps(self, samples: int, epochs: int) -> int:
        """Count the optimizer steps of some epochs of `samples` samples."""
        bounds = [start for start in self.sizes if start < epochs] + [epochs]
        return sum(
            (end - start) * math.ceil(samples / self.sizes[start])
            for start, end in itertools.pairwise(bounds)
        )


def check_rule(rule: str, where: str = "learning_rate_rule") -> None:
    """Refuse a rule that does not exist.

    Raises:
        InputError: Names the rules.
    """
    if rule not in LEARNING_RATE_RULES:
        raise InputError(f"{where}={rule} is not one of {', '.join(LEARNING_RATE_RULES)}")


def learning_rate_factor(rule: str, global_batch_size: int, reference: int) -> float:
    """Return learning rate at a global batch / that at the reference batch.

    Args:
        rule: `none`, `linear` or `sqrt`.
        global_batch_size: Samples per optimizer step.
        reference: Samples per step that the learning rate was chosen for.
    """
    check_rule(rule)
    ratio = global_batch_size / reference
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[rule]


def _whole(value: Any, least: int, where: str) -> int:
    """Take a whole number, also in the form that JSON and YAML give to keys."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
        raise InputError(f"{where}: {value!r} is no whole number from {least} to {_LARGEST}")
    return value
