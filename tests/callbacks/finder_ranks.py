"""One of two ranks that search the batch size together, the second with less memory.

Started by `test_finder_ranks.py` with the variables that torchrun sets. Each rank writes what it
found, and whether its fit equals that of two ranks that were given the size.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy

from gpuopt.callbacks import BatchSizeFinder, OomRecovery
from gpuopt.memory import FixedMemory, Line, MemoryEstimate
from tests.callbacks.finder_modules import MIB, FakeMeter, Unknown
from tests.callbacks.test_batch_size_finder import fitted, same

# By case: what the two meters say and where their devices really end, in MiB.
CASES = {
    "unequal": [(800, 800), (600, 600)],
    "one runs out": [(800, 800), (800, 350)],
    "unlike cards": [(2000, 2000), (2000, 2000)],
}
# What cards that are not alike come with: a prior of their own, or none, and other limits.
OWN = {
    "unlike cards": [
        {
            "prior": MemoryEstimate(FixedMemory(100 * MIB), (Line(0, 10 * MIB),), 8),
            "maximum": 70,
        },
        {"headroom_ratio": 0.5, "minimum": 5},
    ]
}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank, found = int(os.environ["RANK"]), {}
    for name, places in CASES.items():
        meter = FakeMeter(*places[rank])
        finder = BatchSizeFinder(meter=meter, **OWN.get(name, ({}, {}))[rank])
        searched = run(finder, OomRecovery(), meter=meter)
        size = finder.result.largest
        found[name] = {
            "sizes": [probe.samples for probe in finder.result.probes],
            "failed": [probe.ran_out_of_memory for probe in finder.result.probes],
            "largest": size,
            "headroom_ratio": finder.result.headroom_ratio,
            "same": same(searched, run(OomRecovery(), batch_size=size)),
        }
    Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps(found))


def run(*callbacks, **options):
    strategy = DDPStrategy(process_group_backend="gloo")
    return fitted(Unknown, *callbacks, strategy=strategy, devices=2, max_epochs=1, **options)


if __name__ == "__main__":
    main()
