"""One of two ranks that train together, of which the second runs out of memory in some runs.

Started by `test_oom_ranks.py` with the variables that torchrun sets; each rank writes the
differences to an undisturbed run of the same two ranks, and what it knows of the events.
"""

import gc
import json
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from gpuopt.callbacks import AdaptiveBatchSize, MovingAverage, OomRecovery
from gpuopt.errors import FaultError, InputError
from tests.callbacks.memory_faults import FakeMeter, Limits, Net, difference, fit, metered

CASES = {
    "no failure": {},
    "forward": {"forward": 3},
    "backward": {"backward": 2},
    "backward once": {"backward": 2, "at": 1},
    "validation": {"validation": 3},
}
SECOND = os.environ["RANK"] == "1"
# With `cuda` the backends are those of `gpuopt train` on GPUs.
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def main() -> None:
    # A sampler that pads the last batches, and values that are logged per rank, are meant.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gc.freeze()  # recovery collects garbage after each failure
    folder = Path(sys.argv[1])
    found = {}
    for accumulate in (1, 2, 3):
        undisturbed = run(accumulate)
        # The longest window with the failure that is in all others.
        cases = {k: CASES[k] for k in (CASES if accumulate < 3 else ["backward"])}
        for name, limits in cases.items():
            recovery = OomRecovery()
            ended = run(accumulate, recovery, limits=Limits(**(limits if SECOND else {})))
            count = len(recovery.events)
            assert bool(count) == bool(limits)
            assert {event["rank"] for event in recovery.events} <= {1}
            found[f"{name}, accumulation {accumulate}"] = difference(undisturbed, ended)
        found[f"adaptive, accumulation {accumulate}"] = difference(undisturbed, adapt(accumulate))
    average = run(2, MovingAverage())
    both = run(2, OomRecovery(), MovingAverage(), limits=Limits(backward=2 if SECOND else None))
    found["moving average"] = difference(average, both)
    found["events in the first rank's log"] = 0.0 if is_logged_by_first(folder) else 1.0
    resume(folder)
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
    refuse_collectives()
    give_up(folder)


def run(accumulate, *callbacks, limits=None, **options):
    # Small buckets: some have been sent when the backward pass fails.
    strategy = DDPStrategy(process_group_backend=BACKENDS[DEVICE], bucket_cap_mb=1e-4)
    options |= {"accelerator": "gpu" if DEVICE == "cuda" else "cpu"}
    options |= {"strategy": strategy, "devices": 2, "accumulate_grad_batches": accumulate}
    options.setdefault("default_root_dir", sys.argv[1])
    return fit(*callbacks, limits=limits, **options)


def adapt(accumulate):
    """The ranks' devices differ, and so do the sizes that they come to."""
    meter = FakeMeter(total=1000 if SECOND else 20)
    adaptive = AdaptiveBatchSize(initial=2, meter=meter)
    ended = run(accumulate, adaptive, kind=metered(meter))
    sizes = {e["rank"]: e["micro_batch_size"] for e in adaptive.events if e["event"] == "adapt"}
    assert sizes.get(1, 0) > sizes.get(0, 0)
    return ended


def is_logged_by_first(folder):
    logger = CSVLogger(folder, name=f"rank{os.environ['RANK']}")
    limits = Limits(forward=2 if SECOND else None)
    run(1, OomRecovery(), limits=limits, logger=logger, max_epochs=1)
    if SECOND:
        return True
    written = next((folder / "rank0").rglob("metrics.csv")).read_text("utf-8")
    return "memory/rank1/micro_batch_size" in written


class SavesAtEnd(L.Callback):
    """Writes a checkpoint, which is the first rank's, when an epoch has ended."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


def resume(folder):
    """A resumed run knows what happened on both ranks, and each goes on with its own."""
    path, limits = folder / "epoch.ckpt", Limits(forward=3 if SECOND else 5)
    run(1, recovery := OomRecovery(), SavesAtEnd(path), limits=limits, max_epochs=1)
    before = recovery.steps.events.entries
    assert {event["rank"] for event in before} == {int(SECOND)}
    run(1, recovery := OomRecovery(), ckpt_path=path)
    assert recovery.steps.events.entries[: len(before)] == before
    assert {event["rank"] for event in recovery.summary()["events"]} == {0, 1}


class Exchanging(Net):
    """Gathers what all ranks have seen, as contrastive losses do."""

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        torch.distributed.all_reduce(torch.ones(1, device=self.device))
        return outputs


def refuse_collectives():
    """One rank cannot take two parts where the other one takes a whole."""
    limits = Limits(forward=3)  # both, so that both come to know it
    with pytest.raises(InputError, match="itself exchanges tensors between ranks"):
        run(1, OomRecovery(), limits=limits, kind=Exchanging)


def give_up(folder):
    """A rank that cannot go on ends, and the other one does not wait for it for ever."""
    limits = Limits(backward=0, at=2) if SECOND else Limits()
    try:
        run(1, OomRecovery(), limits=limits, default_root_dir=folder)
    except FaultError as error:
        print(error, flush=True)
        os._exit(error.exit_code)
    except RuntimeError as error:  # the connection is gone
        print(error, flush=True)
        os._exit(17)


if __name__ == "__main__":
    main()
