import copy

import pytest
import torch
from torch import nn

from gpuopt.steps.compiled_part import CompiledPart, GraphedCall, drop_graphs, without_chance

CALLS = []


def noting_part(graph, examples, **options):
    """Compile nothing, and note that it was asked for and when the result is run."""
    CALLS.append("compile")

    def run(*args):
        CALLS.append("run")
        return graph(*args)

    return run


@pytest.fixture(autouse=True)
def calls():
    torch.compiler.reset()
    if "noting_part" not in torch.compiler.list_backends(()):
        torch._dynamo.register_backend(noting_part)
    CALLS.clear()
    yield CALLS
    torch.compiler.reset()


@pytest.fixture
def part():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def test_a_part_runs_as_it_is_told(part, calls):
    compiled = CompiledPart(part, "default", "noting_part")
    part(torch.ones(3, 4))
    assert calls == []
    compiled.compiling()
    part(torch.ones(3, 4))
    part(torch.ones(3, 4))
    assert calls == ["compile", "run", "run"]
    compiled.eager()
    part(torch.ones(3, 4))
    assert calls == ["compile", "run", "run"]


def test_when_it_is_frozen_nothing_more_is_compiled(part, calls):
    compiled = CompiledPart(part, "default", "noting_part")
    compiled.compiling()
    part(torch.ones(3, 4))
    compiled.frozen()
    calls.clear()
    compiled.count_anew()
    part(torch.ones(3, 4))
    assert calls == ["run"]
    assert (compiled.calls.total, compiled.calls.eager) == (1, 0)
    part(torch.ones(5, 4))  # another size
    assert (compiled.calls.total, compiled.calls.eager) == (2, 1)
    part.eval()
    part(torch.ones(3, 4))
    part.train()
    part.double()
    part(torch.ones(3, 4).double())
    assert calls == ["run"]
    part.float()
    part(torch.ones(3, 4))
    assert calls == ["run", "run"]


def test_names_stay_and_copies_run_uncompiled(part, calls):
    names = list(part.state_dict())
    compiled = CompiledPart(part, "default", "noting_part")
    compiled.frozen()
    assert list(part.state_dict()) == names
    other = copy.deepcopy(part)
    assert other._compiled_call_impl is None
    assert part._compiled_call_impl is not None


def test_without_chance_only_norms_train(part):
    part[1].eval()
    modes = [inner.training for inner in part.modules()]
    batch = torch.randn(3, 4)
    with without_chance(part):
        assert torch.equal(part(batch), part(batch))
        assert not part[1].training  # as it was
    assert [inner.training for inner in part.modules()] == modes
    part[1].train()
    with without_chance(part):
        assert part[1].training
        assert not part[2].training


def test_graphs_can_be_dropped(part, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda run, **options: made.append(options) or run)
    module = nn.ModuleList([nn.Linear(2, 2), part])
    assert not drop_graphs(module)
    GraphedCall(part, "max-autotune", "inductor")
    assert [options["mode"] for options in made] == ["max-autotune-no-cudagraphs", "max-autotune"]
    part.eval()
    assert part(torch.ones(3, 4)).shape == (3, 4)
    call = part._compiled_call_impl
    assert copy.deepcopy(part)._compiled_call_impl is None
    assert drop_graphs(module)
    assert part._compiled_call_impl is call.without_graphs
    assert not drop_graphs(module)
    GraphedCall(part, "reduce-overhead", "inductor")
    assert [options["mode"] for options in made[2:]] == ["default", "reduce-overhead"]
