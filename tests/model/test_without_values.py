"""Networks built without values for their parameters, which a checkpoint brings."""

import pytest
import timm
import torch
from torch import nn

from gpuopt.model.without_values import WithoutValues


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "test_convnext",
        "test_efficientnet",
        "swin_tiny_patch4_window7_224",  # with indices that no checkpoint holds
        "eva02_tiny_patch14_224",  # with rotations, and weights that are scaled in place
    ],
)
def test_with_its_weights_a_network_is_what_it_was(name):
    torch.manual_seed(0)
    trained = timm.create_model(name, num_classes=3).eval()
    with WithoutValues():
        network = timm.create_model(name, num_classes=3).eval()
    network.load_state_dict(trained.state_dict())
    size = trained.default_cfg["input_size"][-1]
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(network(images), trained(images))


def test_no_random_number_is_drawn_for_parameters():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with WithoutValues():
        nn.Linear(64, 64)
        timm.create_model("test_convnext")
    assert torch.equal(torch.get_rng_state(), before)


def test_buffers_and_tensors_are_computed_as_always():
    with WithoutValues():
        norm = nn.BatchNorm2d(4)
        steps = torch.arange(4.0)
        steps.mul_(2)
    assert torch.equal(norm.running_var, torch.ones(4))
    assert torch.equal(steps, torch.tensor([0.0, 2.0, 4.0, 6.0]))


def test_outside_of_it_parameters_are_filled():
    with WithoutValues():
        pass
    assert nn.Linear(64, 64).weight.abs().sum() > 0
