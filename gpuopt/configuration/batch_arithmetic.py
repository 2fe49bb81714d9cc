"""global batch = micro-batch x devices x accumulation: two give the third."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from gpuopt.batch_schedule import BatchSchedule
from gpuopt.errors import InputError

__all__ = ["settle_batch_sizes"]

_LARGEST = 10_000_000


def settle_batch_sizes(config: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """Settle the global batch, which is the training hyper-parameter; the rest is the GPU's.

    Args:
        config: A resolved configuration with `micro_batch_size` (`auto` or a number),
            `global_batch_size`, `global_batch_schedule`, `accumulate_grad_batches`,
            `trainer.devices`, `trainer.max_epochs` and the learning-rate rule.
        typed: Keys that the user gave on the command line; a mode's global batch gives way to
            the two others when the user typed both.

    Returns:
        The configuration with a definite `global_batch_size`, that of epoch 0, a schedule of
        later epochs alone and no `accumulate_grad_batches`; `micro_batch_size` stays `auto` when
        it was and nothing determines it.

    Raises:
        InputError: When three numbers disagree, too few are given, or no micro-batch size
            leads to the wanted accumulation.
    """
    micro, accumulate = config["micro_batch_size"], config["accumulate_grad_batches"]
    devices = config["trainer"]["devices"]
    total, is_typed = _first_size(config, typed)
    if accumulate is not None and micro != "auto":
        product = micro * devices * accumulate
        if total is not None and is_typed and total != product:
            raise InputError(
                f"global_batch_size={total} disagrees with micro_batch_size={micro} x "
                f"trainer.devices={devices} x accumulate_grad_batches={accumulate} = {product}: "
                "give two of the three"
            )
        if product > _LARGEST:
            raise InputError(
                f"micro_batch_size={micro} x trainer.devices={devices} x "
                f"accumulate_grad_batches={accumulate} = {product}: "
                f"a step has at most {_LARGEST} samples"
            )
        total = product
    elif total is None:
        raise InputError(
            "global_batch_size is not given: set it, or micro_batch_size and "
            "accumulate_grad_batches"
        )
    elif accumulate is not None:
        micro = _micro_batch_size(total, devices, accumulate)
    schedule = _schedule(config, total)
    least = min(schedule.sizes.values())
    if least < devices:
        raise InputError(
            f"global_batch_size={least} is smaller than trainer.devices={devices}: "
            "every device needs a sample"
        )
    _check_rule(config, schedule)
    return {
        **config,
        "micro_batch_size": micro,
        "global_batch_size": schedule.at(0),
        "global_batch_schedule": schedule.changes or None,
        "accumulate_grad_batches": None,
    }


def _first_size(config: Mapping[str, Any], typed: Collection[str]) -> tuple[int | None, bool]:
    """Return the global batch of epoch 0, and whether it was given on purpose."""
    total, is_typed = config["global_batch_size"], "global_batch_size" in typed
    changes = config.get("global_batch_schedule")
    if changes is None:
        return total, is_typed
    if not isinstance(changes, Mapping):
        raise InputError(
            f"global_batch_schedule={changes} names no epochs: write "
            "'global_batch_schedule={5: 256}' for 256 samples per step from epoch 5 on"
        )
    first = changes.get(0)
    if first is not None and is_typed and total not in (None, first):
        raise InputError(
            f"global_batch_size={total} disagrees with global_batch_schedule, which begins with "
            f"{first}: give one of them"
        )
    return (total, is_typed) if first is None else (first, True)


def _schedule(config: Mapping[str, Any], total: int) -> BatchSchedule:
    changes, epochs = config.get("global_batch_schedule"), config["trainer"].get("max_epochs")
    schedule = BatchSchedule.of(total, {**(changes or {}), 0: total})
    for epoch in schedule.changes:
        if epochs is not None and epoch >= epochs:
            raise InputError(
                f"global_batch_schedule: epoch {epoch}, counted from 0, is never reached with "
                f"trainer.max_epochs={epochs}"
            )
    return schedule


def _check_rule(config: Mapping[str, Any], schedule: BatchSchedule) -> None:
    """Refuse a rule or a reference batch that could not change the learning rate."""
    rule, reference = (
        config.get("learning_rate_rule", "none"),
        config.get("learning_rate_reference_batch"),
    )
    if rule == "none" and reference is not None:
        raise InputError(
            f"learning_rate_reference_batch={reference} changes nothing without a rule: add "
            "learning_rate_rule=linear or sqrt"
        )
    if rule != "none" and reference is None and not schedule.changes:
        raise InputError(
            f"learning_rate_rule={rule} changes nothing while every step has {schedule.at(0)} "
            "samples: add learning_rate_reference_batch, the one that model.learning_rate was "
            "chosen for"
        )


def _micro_batch_size(total: int, devices: int, accumulate: int) -> int:
    """Find the samples per forward with which a step takes `accumulate` micro-batches."""
    per_device = math.ceil(total / devices)
    micro = math.ceil(per_device / accumulate)
    if math.ceil(per_device / micro) != accumulate:
        raise InputError(
            f"accumulate_grad_batches={accumulate} cannot be had from "
            f"global_batch_size={total} on trainer.devices={devices}: micro_batch_size={micro} "
            f"takes {math.ceil(per_device / micro)} micro-batches; give another, or "
            "micro_batch_size and one of the two"
        )
    return micro
