"""One of two ranks with different numbers of samples, against one process with all of them.

Started by `test_accumulation_ranks.py` with the variables that torchrun sets; each rank writes the
differences it found.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy

from gpuopt.callbacks import GradientAccumulation, OomRecovery
from tests.callbacks.batches_of_any_size import (
    CLASS_WEIGHTS,
    bare,
    data,
    fit,
    gradient_difference,
    make,
    weight_difference,
)

# Batches of both ranks, in order: windows of 24 in all, the last one incomplete.
SIZES = ((7, 5), (4, 8), (10, 2), (3, 9), (6, 1))
SAMPLES = 55
WINDOWS = [slice(0, 24), slice(24, 48), slice(48, 55)]


class Batches:
    """This rank's batches: no loader of PyTorch, which Lightning would deal out anew."""

    def __init__(self, rank):
        ends = torch.tensor(SIZES).flatten().cumsum(0).tolist()
        x, y = data(SAMPLES).tensors
        spans = [slice(end - size, end) for end, size in zip(ends, sum(SIZES, ()), strict=True)]
        self.batches = [(x[span], y[span]) for span in spans[rank::2]]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    found = {}
    for weighted in (False, True):
        for limit in (None, 2):
            weigh = (lambda batch: CLASS_WEIGHTS[batch[1]].sum()) if weighted else None
            callbacks = [GradientAccumulation(24, loss_weight=weigh)]
            if limit:
                callbacks.append(limited(rank, limit))
            net, plain = make(weighted), make(weighted)
            net.kind = plain.kind = torch.optim.SGD
            strategy = DDPStrategy(process_group_backend="gloo", bucket_cap_mb=1e-4)
            options = {"strategy": strategy, "devices": 2, "gradient_clip_val": 0.5}
            trainer = fit(net, *callbacks, batches=Batches(rank), **options)
            bare(plain, [WINDOWS] * 2, sizes=(SAMPLES,), clip=0.5)
            assert trainer.global_step == 6
            name = f"weighted {weighted}, parts of {limit}"
            found[name] = [gradient_difference(net, plain), weight_difference(net, plain)]
    Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps(found))


def limited(rank, limit):
    recovery = OomRecovery()
    if rank == 1:
        recovery.steps.sizes["training"].limit = limit
    return recovery


if __name__ == "__main__":
    main()
