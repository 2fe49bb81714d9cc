"""One of two ranks that train together, of which the second runs out of memory in some runs.

Started by `test_oom_ranks.py` with the variables that torchrun sets; the first rank writes the
differences to an undisturbed run of the same two ranks.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy

from gpuopt.callbacks import OomRecovery
from tests.callbacks.memory_faults import Limits, difference, fit

CASES = {
    "no failure": {},
    "forward": {"forward": 3},
    "backward": {"backward": 2},
    "backward once": {"backward": 2, "at": 1},
    "validation": {"validation": 3},
}


def main() -> None:
    # A sampler that pads the last batches, and values that are logged per rank, are meant.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    second = os.environ["RANK"] == "1"
    found = {}
    for accumulate in (1, 2):
        undisturbed = run(accumulate)
        for name, limits in CASES.items():
            recovery = OomRecovery()
            ended = run(accumulate, recovery, limits=Limits(**(limits if second else {})))
            assert bool(recovery.events) == (second and bool(limits))
            found[f"{name}, accumulation {accumulate}"] = difference(undisturbed, ended)
    Path(sys.argv[1], f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


def run(accumulate, *callbacks, limits=None):
    # Small buckets: some have been sent when the backward pass fails.
    strategy = DDPStrategy(process_group_backend="gloo", bucket_cap_mb=1e-4)
    return fit(
        *callbacks, limits=limits, strategy=strategy, devices=2, accumulate_grad_batches=accumulate
    )


if __name__ == "__main__":
    main()
