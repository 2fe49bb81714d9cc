from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from gpuopt.callbacks.agreement import any_rank


@pytest.mark.parametrize("flag", [True, False])
def test_one_process_decides_alone(flag):
    assert any_rank(SimpleNamespace(world_size=1), flag) is flag


@pytest.mark.parametrize(("others", "expected"), [(1, True), (0, False)])
def test_one_voice_is_enough(monkeypatch, others, expected):
    """The trainer's world is told apart from the group's, which has one member here."""
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        reduce = torch.distributed.all_reduce

        def with_others(votes, op):
            assert votes.device.type == "cpu"
            reduce(votes, op)
            votes.copy_(torch.maximum(votes, torch.tensor(others)))

        monkeypatch.setattr(torch.distributed, "all_reduce", with_others)
        assert any_rank(SimpleNamespace(world_size=2), False) is expected
        assert any_rank(SimpleNamespace(world_size=2), True) is True
    finally:
        torch.distributed.destroy_process_group()
