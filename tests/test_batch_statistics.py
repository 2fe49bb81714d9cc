"""BatchNorm with frozen statistics: nothing depends on the batch, and everything knows it."""

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from gpuopt.batch_statistics import has_frozen_statistics, set_frozen_statistics
from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from gpuopt.memory import predict_memory
from gpuopt.memory.batch_dependence import depends_on_batch
from gpuopt.memory.setup import MemorySetup
from gpuopt.model import Classifier


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


@pytest.mark.parametrize("copied", [False, True])
def test_the_statistics_stay_through_train_and_in_copies(copied):
    network = convolutions()
    set_frozen_statistics(network, True)
    network = copy.deepcopy(network) if copied else network
    network.train()
    before = {name: value.clone() for name, value in network[1].named_buffers()}
    network(torch.randn(8, 3, 6, 6)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network[1].named_buffers())
    assert network[0].training
    assert has_frozen_statistics(network[1])
    assert network[1].weight.grad is not None


def test_a_sample_is_the_same_in_any_batch_and_the_gradients_add_up():
    network = convolutions()
    set_frozen_statistics(network.train(), True)
    images = torch.randn(8, 3, 6, 6)
    assert torch.allclose(network(images)[:2], network(images[:2]), atol=1e-6)
    network(images).square().sum().backward()
    whole = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    for part in images.split(2):
        network(part).square().sum().backward()
    for parameter, expected in zip(network.parameters(), whole, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-5)


def test_they_can_be_set_free_again():
    network = convolutions().train()
    set_frozen_statistics(network, True)
    set_frozen_statistics(network, False)
    before = network[1].running_mean.clone()
    network(torch.randn(8, 3, 6, 6))
    assert not torch.equal(network[1].running_mean, before)
    assert not has_frozen_statistics(network[1])


def test_recovery_takes_such_a_network_for_independent_of_its_batch():
    network = convolutions()
    assert depends_on_batch(network)
    set_frozen_statistics(network, True)
    assert not depends_on_batch(network)


def test_gradients_need_not_be_kept_apart_and_the_predictor_knows_it(tmp_path):
    def most(frozen):
        setup = MemorySetup("resnet18", 64, "fp32", accumulates=True, frozen_statistics=frozen)
        return predict_memory(setup, cache_dir=tmp_path).peak_bytes(2)

    free = most(False)
    assert most(True) < free
    assert most(False) == free  # the network is the same object, and free again


def test_the_classifier_keeps_them_while_it_trains():
    model = Classifier("test_efficientnet", 3, batch_norm="frozen").train()
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    assert not any(part.training for part in norms)
    assert not depends_on_batch(model)


def test_without_batch_norm_there_is_nothing_to_freeze():
    with pytest.raises(InputError, match="test_vit has no BatchNorm"):
        Classifier("test_vit", 3, batch_norm="frozen")


def test_random_weights_have_no_statistics_to_keep(monkeypatch):
    with pytest.raises(InputError, match="pretrained=false has none"):
        compose_settings("train", ["model.batch_norm=frozen", "model.pretrained=false"])
    settings = compose_settings("train", ["model.batch_norm=frozen"])
    assert OmegaConf.create(dict(settings)).model.batch_norm == "frozen"


def test_a_hub_out_of_reach_is_no_reason_to_freeze_random_statistics(monkeypatch):
    def offline(*_, pretrained=False, **__):
        if pretrained:
            raise OSError("offline")
        return original(*_, pretrained=False, **__)

    import timm

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match="random weights"):
        Classifier(
            "test_efficientnet", 3, pretrained=True, random_if_offline=True, batch_norm="frozen"
        )
