"""global batch = micro-batch x devices x accumulation: two give the third."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from gpuopt.errors import InputError

__all__ = ["settle_batch_sizes"]

_LARGEST = 10_000_000


def settle_batch_sizes(config: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """Settle the global batch, which is the training hyper-parameter; the rest is the GPU's.

    Args:
        config: A resolved configuration with `micro_batch_size` (`auto` or a number),
            `global_batch_size`, `accumulate_grad_batches` and `trainer.devices`.
        typed: Keys that the user gave on the command line; a mode's global batch gives way to
            the two others when the user typed both.

    Returns:
        The configuration with a definite `global_batch_size` and no `accumulate_grad_batches`;
        `micro_batch_size` stays `auto` when it was and nothing determines it.

    Raises:
        InputError: When three numbers disagree, too few are given, or no micro-batch size
            leads to the wanted accumulation.
    """
    micro, accumulate = config["micro_batch_size"], config["accumulate_grad_batches"]
    total, devices = config["global_batch_size"], config["trainer"]["devices"]
    if accumulate is not None and micro != "auto":
        product = micro * devices * accumulate
        if total is not None and "global_batch_size" in typed and total != product:
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
    if total < devices:
        raise InputError(
            f"global_batch_size={total} is smaller than trainer.devices={devices}: "
            "every device needs a sample"
        )
    return {
        **config,
        "micro_batch_size": micro,
        "global_batch_size": total,
        "accumulate_grad_batches": None,
    }


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
