import pytest
import torch
from torch import nn

from gpuopt.steps.fused_twin import fused_twin


def stepped(kind, **options):
    network = nn.Linear(4, 2)
    optimizer = kind(network.parameters(), lr=0.1, **options)
    network(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    return network, optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_the_twin_is_fused_and_changes_no_weight(kind):
    network, optimizer = stepped(kind, weight_decay=0.1)
    twin = fused_twin(optimizer)
    assert type(twin) is kind
    assert all(group["fused"] for group in twin.param_groups)
    before = [parameter.clone() for parameter in network.parameters()]
    twin.step()
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    assert not optimizer.param_groups[0].get("fused")  # which stays as it was
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_what_has_no_twin():
    _, fused = stepped(torch.optim.AdamW, fused=True)
    assert fused_twin(fused) is None
    _, other = stepped(torch.optim.RMSprop)
    assert fused_twin(other) is None

    class Own(torch.optim.AdamW):
        pass

    _, own = stepped(Own)
    assert fused_twin(own) is None
    _, differentiated = stepped(torch.optim.AdamW, amsgrad=True)
    assert fused_twin(differentiated) is not None
