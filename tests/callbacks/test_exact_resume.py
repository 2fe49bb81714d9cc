import random

import numpy as np
import torch

from gpuopt.callbacks import ExactResume
from gpuopt.storage.checkpoint import read_checkpoint


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_go_on_where_they_were(tmp_path):
    """The states go through a file that loads with weights_only=True."""
    callback = ExactResume()
    torch.save({"state": callback.state_dict()}, tmp_path / "a.ckpt")
    expected = [draw(), draw()]
    later = ExactResume()
    later.load_state_dict(read_checkpoint(tmp_path / "a.ckpt")["state"])
    draw()
    later.on_train_batch_start(None, None, None, 0)
    assert [draw(), draw()] == expected


def test_they_are_restored_once_and_only_after_a_load():
    callback = ExactResume()
    before = draw()
    callback.on_train_batch_start(None, None, None, 0)
    assert draw() != before
    callback.load_state_dict(callback.state_dict())
    callback.on_train_batch_start(None, None, None, 0)
    first = draw()
    callback.on_train_batch_start(None, None, None, 1)
    assert draw() != first
