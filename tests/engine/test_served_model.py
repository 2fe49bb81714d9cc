import copy
import logging

import pytest
import torch
from torch import nn

from gpuopt.engine.served_model import ServedModel, _attention, _is_norm, example_images, serve
from gpuopt.errors import FaultError, InputError
from gpuopt.recomputation.apply import apply_checkpointing
from tests.engine.conftest import expected, pictures, request, small, trained

NAMES = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "test_mambaout"]
# Relative to the largest logit; the half formats keep 11 and 8 bits.
TOLERANCE = {"fp32": 1e-5, "fp16": 6e-3, "bf16": 5e-2}


@pytest.mark.parametrize("name", NAMES)
def test_a_served_network_answers_as_the_trained_one(name):
    network = trained(name)
    before = copy.deepcopy(network.backbone.state_dict())
    images = pictures(4)
    reference = expected(network, images)
    for precision, tolerance in TOLERANCE.items():
        for explicit in (False, True):
            model = serve(network, request(precision), explicit_attention=explicit)
            with torch.inference_mode():
                logits = model(images)
                assert torch.equal(model(images.float()), logits)
            assert logits.dtype == torch.float32
            assert (logits - reference).abs().max() <= tolerance * reference.abs().max()
    after = network.backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_norms_and_head_compute_in_fp32_and_the_rest_in_half(name):
    model = serve(trained(name), request("fp16"))
    seen = {}
    for key, module in model.backbone.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) or _is_norm(module):
            module.register_forward_hook(
                lambda m, args, out, key=key: seen.update({key: (m, args[0].dtype, out.dtype)})
            )
    with torch.inference_mode():
        model(pictures(2))
    head = model.backbone.get_classifier()
    for key, (module, _, result) in seen.items():
        wide = _is_norm(module) or module is head
        kept = {p.dtype for p in module.parameters()}
        assert kept == {torch.float32 if wide else torch.float16}, key
        assert result == (torch.float32 if module is head else torch.float16), key


def test_named_layers_stay_in_fp32_with_all_that_is_in_them():
    model = serve(trained("test_vit"), request("fp16", fp32_layers=("blocks.1", "patch_embed")))
    parts = dict(model.backbone.named_modules())
    for key, kind in {
        "blocks.1": torch.float32,
        "blocks.1.mlp.fc1": torch.float32,
        "patch_embed.proj": torch.float32,
        "blocks.0.mlp.fc1": torch.float16,
    }.items():
        assert {p.dtype for p in parts[key].parameters() if p.ndim > 1} == {kind}, key
    with torch.inference_mode():
        assert model(pictures(2)).isfinite().all()


def test_a_prefix_is_a_whole_name():
    network = trained("test_vit")
    model = serve(network, request("fp16", fp32_layers=("blocks.0.mlp.fc1",)))
    assert model.backbone.get_submodule("blocks.0.mlp.fc1").weight.dtype == torch.float32
    assert model.backbone.get_submodule("blocks.0.mlp.fc2").weight.dtype == torch.float16
    for precision in ("fp16", "fp32"):
        with pytest.raises(InputError, match=r"no module is named blocks.0.mlp.fc\b.*mlp.fc1"):
            serve(network, request(precision, fp32_layers=("blocks.0.mlp.fc",)))


class Soft(nn.Module):
    """Calls softmax in the three ways that there are."""

    def __init__(self):
        super().__init__()
        self.kinds = set()
        self.head = nn.Linear(3, 3, bias=False)

    def forward(self, images):
        scores = images[:, :, 0, 0]
        ways = (
            scores.softmax(-1),
            torch.softmax(scores, -1),
            torch.nn.functional.softmax(scores, dim=-1),
        )
        self.kinds |= {way.dtype for way in ways}
        return self.head(sum(ways))


def test_softmax_is_computed_in_fp32_and_handed_on_in_half():
    model = ServedModel(Soft(), (0.0,) * 3, (1.0,) * 3, precision="fp16")
    program = torch.export.export(model, (pictures(2),))
    inputs = [node.args[0] for node in program.graph.nodes if "softmax" in str(node.target)]
    assert len(inputs) == 3
    assert {node.meta["val"].dtype for node in inputs} == {torch.float32}
    assert model.backbone.kinds == {torch.float16}


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_written_out_attention_is_pytorchs(mask):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8) for _ in range(3))
    masks = {
        None: None,
        "bool": torch.rand(2, 3, 5, 5) > 0.3,
        "float": torch.randn(2, 3, 5, 5),
    }
    fused = torch.nn.functional.scaled_dot_product_attention
    for options in ({}, {"scale": 0.7}):
        own = _attention(query, key, value, masks[mask], **options)
        theirs = fused(query, key, value, masks[mask], **options)
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)
    causal = _attention(query, key, value, is_causal=True)
    torch.testing.assert_close(causal, fused(query, key, value, is_causal=True))


def test_what_training_added_to_the_network_is_left_behind():
    network = trained("test_resnet")
    plain = serve(network, request())(pictures(2))
    apply_checkpointing(network.backbone, "full")
    network.backbone.compile(backend="eager")
    model = serve(network, request())
    assert not [m for m in model.modules() if "forward" in vars(m) or m._compiled_call_impl]
    assert [m for m in network.backbone.modules() if "forward" in vars(m)]
    torch.testing.assert_close(model(pictures(2)), plain)


def test_images_of_a_wrong_size_are_one_line():
    odd = request()
    odd = type(odd)(20, 5, "fp32", 1, 2, odd.device)
    with pytest.raises(FaultError, match=r"does not take images of 20x20 .*check image_size"):
        serve(trained("test_vit"), odd)


def test_a_network_that_looks_at_its_norms_is_served_unfolded(caplog):
    network = small()
    backbone = network.backbone
    plain = type(backbone).forward

    def looking(images):
        assert backbone.norm.eps > 0
        return plain(backbone, images)

    class Looking(type(backbone)):
        def forward(self, images):
            return super().forward(images) * (self.norm.eps > 0)

    backbone.__class__ = Looking
    with caplog.at_level(logging.WARNING):
        model = serve(network, request())
    assert "BatchNorms are not folded" in caplog.text
    assert isinstance(model.backbone.norm, nn.BatchNorm2d)
    with torch.inference_mode():
        torch.testing.assert_close(model(pictures(3)), expected(network, pictures(3)))


def test_examples_are_the_same_every_time():
    first, second = example_images(request(), 3), example_images(request(), 3)
    assert first.shape == (3, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
