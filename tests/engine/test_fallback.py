"""The way from the wanted engine down to one that is proved, with engines made of the network."""

import re

import pytest
import timm
import torch
from torch import nn

from gpuopt.engine.eager import Eager
from gpuopt.engine.fallback import ProofImages, build_verified, last_stage, reference_of
from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.engine.verification import Bounds
from gpuopt.errors import FaultError, InputError

CPU = torch.device("cpu")
REQUEST = EngineRequest(16, 4, "fp16", 8, 16, CPU)
FEW = Bounds(least_images=32)


class Net(nn.Module):
    """Four stages and a head, of which each class answers to a patch of its own."""

    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Identity(), nn.Identity()) for _ in range(4)]
        self.stages = nn.ModuleList(nn.Sequential(block) for block in blocks)

    def forward(self, images):
        for stage in self.stages:
            images = stage(images)
        return 4 * images[:, 0, 0, :4]


NETWORK = TrainedNetwork(Net().eval(), (128.0,) * 3, (64.0,) * 3, "net")


def pictures(count=32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    rows = torch.arange(count)
    images[rows, 0, 0, rows % 4] = 200
    return ProofImages(images, tuple(f"{row}.png" for row in range(count)))


PROOF = pictures()


class FakeEngine:
    device = CPU

    def __init__(self, name, request, fault):
        self.name, self.precision, self.fault = name, request.precision, fault
        self.max_batch_size = request.max_batch_size
        self.answer = reference_of(NETWORK, CPU)

    def __call__(self, images):
        logits = self.answer(images)
        return -logits if self.fault else logits


def search(faulty, engines=("tensorrt", "onnx"), request=REQUEST, proof=PROOF, bounds=FEW):
    """Search with engines of which `faulty(name, request)` are wrong, or raise what it returns."""
    made, lines = [], []

    def make(name, asked):
        made.append((name, asked.precision, asked.fp32_layers))
        fault = faulty(name, asked)
        if isinstance(fault, Exception):
            raise fault
        return FakeEngine(name, asked, fault)

    def run():
        return build_verified(
            request, NETWORK, engines, proof, make=make, tell=lines.append, bounds=bounds
        )

    return run, made, lines


def test_the_wanted_engine_is_taken_when_it_is_proved():
    run, made, lines = search(lambda name, asked: False)
    found = run()
    assert made == [("tensorrt", "fp16", ())]
    assert (found.engine.name, found.request) == ("tensorrt", REQUEST)
    assert found.verification.accepted
    assert [batch.batch_size for batch in found.verification.batches] == [1, 8, 11, 16]
    assert found.verification.images == PROOF.names
    assert (len(lines), "\n" in lines[0]) == (1, False)
    assert str(found.choice).startswith("engine=tensorrt (measured: tensorrt fp16 verified on 32")


def test_more_layers_in_fp32_then_the_next_engine_down_to_eager_in_fp32():
    run, made, lines = search(lambda name, asked: (name, asked.precision) != ("eager", "fp32"))
    found = run()
    stage = ("stages.3.0",)
    expected = [(n, p, s) for n in ("tensorrt", "onnx", "eager") for p, s in steps(stage)]
    assert made == expected
    assert found.engine.name == "eager"
    assert [attempt.is_accepted for attempt in found.attempts] == [False] * 8 + [True]
    assert all(re.search(r"rejected: 0\.00% have the same class", line) for line in lines[:-1])
    assert lines[1].startswith("tensorrt fp16 (stages.3.0 in fp32) rejected")
    assert found.choice.reason.endswith("rejected before: 8")


def steps(stage):
    return [("fp16", ()), ("fp16", stage), ("fp32", ())]


def test_the_last_stage_in_fp32_may_be_enough():
    run, made, _ = search(lambda name, asked: not asked.fp32_layers)
    found = run()
    assert len(made) == 2
    assert found.request == REQUEST.with_fp32_layers("stages.3.0")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("tensorrt is not installed: pip install gpuopt[tensorrt]"), "not installed"),
        (RuntimeError("conversion failed\n at node 3"), "RuntimeError: conversion failed"),
        (ValueError(), "ValueError: no reason given"),
    ],
)
def test_what_cannot_be_built_is_a_line_and_the_next_one_is_tried(error, words):
    run, _, lines = search(lambda name, asked: error if name == "tensorrt" else False)
    assert run().engine.name == "onnx"
    assert lines[0].startswith("tensorrt fp16 fails: ")
    assert words in lines[0]
    assert not any("\n" in line for line in lines)


def test_in_fp32_there_are_no_layers_to_keep():
    request = EngineRequest(16, 4, "fp32", 8, 16, CPU)
    run, made, _ = search(lambda name, asked: name != "eager", request=request)
    run()
    assert made == [(name, "fp32", ()) for name in ("tensorrt", "onnx", "eager")]


def test_when_eager_in_fp32_is_wrong_it_is_a_fault():
    run, _, lines = search(lambda name, asked: True)
    with pytest.raises(FaultError, match=r"no engine answers as the model.*eager fp32 rejected"):
        run()
    assert len(lines) == 9


class Overflow(Net):
    """Its third stage leaves fp16's range, which none of its answers shows in fp32."""

    def forward(self, images):
        return super().forward(images * 1e5) * 1e-5


def test_no_compiler_works_on_a_precision_that_eager_shows_to_fail():
    trained = TrainedNetwork(Overflow().eval(), (128.0,) * 3, (64.0,) * 3, "net")
    made, lines = [], []

    def make(name, asked):
        made.append((name, asked.precision))
        return FakeEngine(name, asked, fault=False)

    found = build_verified(
        REQUEST, trained, ["tensorrt"], PROOF, make=make, tell=lines.append, bounds=FEW
    )
    assert made == [("tensorrt", "fp32")]
    assert found.request.precision == "fp32"
    assert len(lines) == 3
    for line in lines[:2]:
        assert re.match(r"tensorrt fp16.* fails: not built, as even eager .* not finite", line)


def test_a_few_flips_in_eager_say_nothing_of_a_compiler(monkeypatch):
    """They are counted where an engine is used: eager itself is not accepted with them."""

    class Flipping(FakeEngine):
        def __call__(self, images):
            logits = super().__call__(images)
            is_first = (images[:, 0, 0, :4] == PROOF.images[0, 0, 0, :4]).all(1)
            return torch.where(is_first[:, None], logits.roll(1, 1), logits)

    monkeypatch.setattr(Eager, "wrap", lambda self, asked, net: Flipping("eager", asked, False))
    lenient = Bounds(32, least_agreement=0.99, most_flip_margin=1.0, most_kl=9.0)
    run, made, _ = search(lambda name, asked: False, bounds=lenient)
    assert run().engine.name == "tensorrt"
    assert made == [("tensorrt", "fp16", ())]


def test_where_eager_cannot_run_the_compiler_is_asked(monkeypatch):
    def out_of_memory(self, asked, net):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Eager, "wrap", out_of_memory)
    run, made, _ = search(lambda name, asked: False)
    run()
    assert made == [("tensorrt", "fp16", ())]


def test_too_few_images_end_before_anything_is_built():
    run, made, _ = search(lambda name, asked: False, bounds=Bounds())
    with pytest.raises(InputError, match="32 images cannot prove an engine: at least 500"):
        run()
    assert made == []


def test_a_model_that_is_not_finite_ends_before_anything_is_built():
    network = TrainedNetwork(NETWORK.backbone, (0.0,) * 3, (0.0,) * 3, "net")
    with pytest.raises(InputError, match="the model itself"):
        build_verified(REQUEST, network, ["onnx"], PROOF, make=None, tell=None, bounds=FEW)


def test_the_reference_leaves_the_network_as_it_is():
    net = timm.create_model("test_resnet", num_classes=3).half().train()
    network = TrainedNetwork(net, (0.0,) * 3, (1.0,) * 3, "test_resnet")
    logits = reference_of(network, CPU)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits.dtype == torch.float32
    assert net.training
    assert next(net.parameters()).dtype == torch.float16


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("test_vit", ("blocks.4", "blocks.5")),
        ("test_convnext", ("stages.3.blocks.0", "stages.3.blocks.1")),
        ("test_resnet", ("layer4.0",)),
    ],
)
def test_the_last_quarter_of_the_stages_is_the_last_stage(name, prefixes):
    assert last_stage(timm.create_model(name)) == prefixes


def test_a_network_without_stages_has_no_last_one():
    assert last_stage(nn.Linear(2, 2)) == ()
