"""Two ranks of which one cannot use what was compiled, or is slower: both choose the same."""

import json
import os
import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.utils.data import DataLoader

from gpuopt.callbacks import CompileChooser
from gpuopt.callbacks import compile_trial as trial_module
from gpuopt.measure.compile_choice import CompileFailedError
from tests.callbacks.finder_modules import FakeMeter, Rows, Unknown
from tests.callbacks.test_batch_size_finder import SETTINGS

RANK = int(os.environ["RANK"])


class Stub:
    """Compiles nothing; only the first rank of a machine may start it."""

    is_done = True

    def __init__(self, task, mode):
        assert RANK == 0

    def fault(self):
        return None

    def end(self):
        pass


def fitted(folder):
    torch.manual_seed(3)
    chooser = CompileChooser("net", backend="eager", cache_dir=folder, total_steps=10**6)
    trainer = L.Trainer(
        **SETTINGS | {"max_epochs": 1, "devices": 2, "strategy": "ddp"},
        callbacks=[chooser],
        plugins=[TorchElasticEnvironment()],
    )
    trainer.fit(Unknown(FakeMeter(10**6)), DataLoader(Rows(), 4))
    weights = float(sum(p.double().sum() for p in trainer.lightning_module.parameters()))
    return {"choice": chooser.choice.value, "reason": chooser.choice.reason, "weights": weights}


def main(folder):
    trial_module.CompilingProcess = Stub
    clock_s = trial_module.CompileTrial.clock_s
    cases = {}
    cases["as it is"] = fitted(folder / "first")

    def broken(self, compiled):
        if RANK == 1:
            raise CompileFailedError("wrong on the second rank")

    check, trial_module.CompileTrial._check = trial_module.CompileTrial._check, broken
    cases["one fails"] = fitted(folder / "second")
    trial_module.CompileTrial._check = check
    # A clock that counts steps: compiled ones take half of the time, on the first rank.
    ticks = [0.0]

    def step(self):
        is_compiled = self._part._compiled_call_impl is not None
        ticks[0] += 0.5 if is_compiled and RANK == 0 else 1.0
        self._taker.train(self._taker.on_device(self._batch))

    taken = []

    def scarce(self):
        taken.append(step)
        if RANK == 1 and len(taken) in scarce.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        step(self)

    trial_module.CompileTrial._step = scarce
    for scarce.at in ({1}, {2}, {9}):
        taken.clear()
        cases[f"memory {scarce.at}"] = fitted(folder / "memory")
    trial_module.CompileTrial._step = step
    trial_module.CompileTrial.clock_s = lambda self: ticks[0]
    cases["one is slow"] = fitted(folder / "third")
    trial_module.CompileTrial.clock_s = clock_s
    (folder / f"rank{RANK}.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
