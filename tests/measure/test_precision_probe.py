import random
import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from gpuopt.measure.precision_probe import probe_precision

CPU = torch.device("cpu")


class Clock:
    """Half-precision steps take `half_s`, those in fp32 1 second."""

    def __init__(self, half_s):
        self.half_s, self.now = half_s, 0.0
        self.net = None

    def __call__(self):
        self.now += self.half_s if self.net.was_half else 1.0
        return self.now


class Net(nn.Module):
    """BatchNorm, dropout, and on request a fault that only half precision has."""

    def __init__(self, fault=None):
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Linear(8, 32)
        self.norm = nn.BatchNorm1d(32)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(32, 5)
        self.fault, self.was_half, self.steps = fault, False, 0

    def forward(self, values):
        hidden = self.before(values)
        self.was_half = hidden.dtype != torch.float32
        self.steps += 1
        hidden = self.dropout(torch.relu(self.norm(hidden)))
        if self.fault == "overflow":
            hidden = hidden * 1e5  # above 65504
            return self.head(hidden) * 1e-5
        logits = self.head(hidden)
        if self.fault == "gradient" and logits.requires_grad:
            logits.register_hook(lambda gradient: gradient * (1e35 if self.was_half else 1.0))
        if self.was_half and self.fault == "wrong":
            return logits.flip(1)
        if self.was_half and self.fault == "one sample":
            return torch.cat([logits[:1].flip(1), logits[1:]])
        return logits


VALUES = 4 * torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
TARGETS = torch.arange(64) % 5


def forward_of(net):
    def forward(samples):
        logits = net(VALUES[:samples]).float()
        return logits, nn.functional.cross_entropy(logits, TARGETS[:samples])

    return forward


def probe(fault=None, precision="fp16", half_s=0.5, samples=64):
    net, clock = Net(fault), Clock(half_s)
    clock.net = net
    return probe_precision(net, forward_of(net), samples, precision, CPU, clock=clock), net


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_good_format_that_is_faster_is_accepted(precision):
    found, net = probe(precision=precision)
    assert found.is_accepted, found.reason
    assert 0 < found.difference_ratio < 0.05
    assert found.top1_agreement in (None, 1.0)
    assert found.compared_samples == found.samples == 64
    assert found.speedup_ratio > 1.5
    assert "\n" not in found.reason
    assert net.steps < 20


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("overflow", "logits are not finite with 64 samples"),
        ("gradient", "gradients are not finite .* at a loss scale of 1"),
        ("wrong", "logits may differ by 0.1"),
    ],
)
def test_a_planted_fault_of_half_precision_is_rejected(fault, reason):
    with pytest.MonkeyPatch.context() as patch:
        if fault == "overflow":  # which autocast on a CPU would compute in fp32 here
            patch.setattr(nn.BatchNorm1d, "forward", lambda self, values: values)
        found, _ = probe(fault)
    assert not found.is_accepted
    assert re.search(reason, found.reason), found.reason


def test_bf16_has_the_range_that_fp16_lacks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.BatchNorm1d, "forward", lambda self, values: values)
        assert probe("overflow", "bf16")[0].is_accepted


def test_single_samples_of_another_class_are_noticed():
    found, _ = probe("one sample")
    assert found.difference_ratio < 0.3
    assert not found.is_accepted
    assert found.top1_agreement is None or found.top1_agreement < 0.995


def test_what_is_not_faster_is_rejected():
    found, _ = probe(half_s=0.97)
    assert not found.is_accepted
    assert "has to be 1.05 times as fast" in found.reason


class OutOfMemory(RuntimeError):
    pass


def test_fewer_samples_are_compared_when_fp32_needs_too_much():
    net = Net()
    plain = forward_of(net)

    def forward(samples):
        result = plain(samples)
        if samples > 20 and not net.was_half:
            raise OutOfMemory
        return result

    clock = Clock(0.5)
    clock.net = net
    options = {"clock": clock, "is_out_of_memory": lambda error: isinstance(error, OutOfMemory)}
    found = probe_precision(net, forward, 64, "bf16", CPU, **options)
    assert (found.samples, found.compared_samples) == (64, 16)
    assert found.is_accepted

    def nothing_fits(samples):
        result = plain(samples)
        if not net.was_half:
            raise OutOfMemory
        return result

    found = probe_precision(net, nothing_fits, 4, "bf16", CPU, **options)
    assert (found.is_accepted, found.compared_samples) == (True, None)
    assert "not two fit in fp32" in found.reason
    with pytest.raises(OutOfMemory):
        probe_precision(net, nothing_fits, 4, "bf16", CPU, clock=clock)


def snapshot(net):
    return {
        "state": {name: value.clone() for name, value in net.state_dict().items()},
        "places": {name: id(value) for name, value in net.named_buffers()},
        "grads": [
            None if p.grad is None else (id(p.grad), p.grad.clone()) for p in net.parameters()
        ],
        "modes": [part.training for part in net.modules()],
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
        "matmul": torch.get_float32_matmul_precision(),
    }


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert one == other


@pytest.mark.parametrize("fails", [False, True])
def test_no_bit_of_the_model_or_the_generators_changes(fails):
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet", num_classes=5, drop_rate=0.2).train()
    net.conv_stem.eval()
    images = torch.randn(8, 3, 32, 32)
    net(images).sum().backward()
    net.conv_stem.weight.grad = None

    def forward(samples):
        random.random(), np.random.rand()
        logits = net(images[:samples])
        if fails:
            raise KeyError
        return logits, logits.float().logsumexp(1).mean()

    before = snapshot(net)
    if fails:
        with pytest.raises(KeyError):
            probe_precision(net, forward, 8, "bf16", CPU)
    else:
        probe_precision(net, forward, 8, "bf16", CPU)
    assert_equal(snapshot(net), before)


def test_a_compiled_model_is_tried_uncompiled():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    net = Net()
    net.compile(backend=backend)
    compiled = net._compiled_call_impl
    probe_precision(net, forward_of(net), 8, "bf16", CPU)
    assert not calls
    assert net._compiled_call_impl is compiled
