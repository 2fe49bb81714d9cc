"""A whole run that recomputes activations: the same bits, also when the level changes midway."""

import os
import signal

import pytest
import torch

from gpuopt.callbacks import ExactResume
from gpuopt.errors import PreemptedError
from gpuopt.storage.checkpoint import read_checkpoint

OPTIONS = (
    "model.name=test_efficientnet",  # BatchNorm
    "model.drop_rate=0.2",
    "model.drop_path_rate=0.2",
    "callbacks.moving_average.enabled=true",
    "trainer.max_steps=8",
    "trainer.max_epochs=2",
)


def weights(folder):
    return read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


def test_a_run_may_change_the_level_when_it_is_resumed(train, tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", *OPTIONS)
    assert whole["plan"]["checkpointing"] == "none"
    original = ExactResume.on_train_batch_start

    def disturbed(self, trainer, pl_module, batch, batch_idx):
        original(self, trainer, pl_module, batch, batch_idx)
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ExactResume, "on_train_batch_start", disturbed)
    with pytest.raises(PreemptedError):
        train(tmp_path / "parts", *OPTIONS, "model.checkpointing=full")
    monkeypatch.setattr(ExactResume, "on_train_batch_start", original)
    resumed = train(tmp_path / "parts", *OPTIONS, "model.checkpointing=stages=2")
    assert resumed["plan"]["checkpointing"] == "stages=2"
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed["metrics"] == whole["metrics"]
