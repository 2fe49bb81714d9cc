import pytest
import torch
from torch import nn

from gpuopt.engine.trained import network_of
from gpuopt.errors import InputError
from gpuopt.model import Classifier
from tests.engine.conftest import Small


def test_a_classifier_says_all_itself():
    model = Classifier("test_resnet", 5)
    network = network_of(model)
    assert network.backbone is model.backbone
    assert not network.backbone.training
    assert network.name == "test_resnet"
    assert network.mean == tuple(model.mean.flatten().tolist())
    assert network.uses_channels_last is True


def test_any_module_with_its_network_in_an_attribute():
    module = nn.Module()
    module.net = Small().to(memory_format=torch.channels_last)
    network = network_of(module, backbone="net", mean=(1, 2, 3), std=(4, 5, 6))
    assert (network.mean, network.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert network.name == "Small"
    assert network.uses_channels_last
    assert not network_of(Small(), backbone="", mean=(0,), std=(1,)).uses_channels_last


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match=r"Small has no module 'backbone' .* backbone="):
        network_of(Small())
    with pytest.raises(InputError, match="give mean and std per channel"):
        network_of(Small(), backbone="")
