from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from gpuopt.errors import InputError
from gpuopt.steps.own_collectives import refusing_collectives


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def exchange(kind):
    value = torch.ones(2)
    if kind == "sum":
        dist.all_reduce(value)
    elif kind == "all":
        dist.all_gather([torch.empty(2)], value)
    elif kind == "object":
        dist.all_gather_object([None], "a")
    else:
        dist.barrier()


@pytest.mark.parametrize("kind", ["sum", "all", "object", "barrier"])
def test_an_exchange_is_refused_before_it_begins(group, kind):
    exchange(kind)
    alone, several = SimpleNamespace(world_size=1), SimpleNamespace(world_size=2)
    with refusing_collectives(alone, "training_step"):
        exchange(kind)
    with (
        pytest.raises(InputError, match="training_step itself exchanges tensors between ranks"),
        refusing_collectives(several, "training_step"),
    ):
        exchange(kind)


def test_everything_else_is_the_same():
    with refusing_collectives(SimpleNamespace(world_size=2), "training_step"):
        assert torch.equal(torch.ones(3).cumsum(0), torch.tensor([1.0, 2.0, 3.0]))
