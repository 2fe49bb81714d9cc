import pytest
import torch
from torch import Tensor

from gpuopt.memory.shapes_only import SHAPES_ONLY

aten = torch.ops.aten
VALUES = torch.randn(2, 6, 4, 4).permute(0, 2, 3, 1)  # as timm's LayerNorm2d hands them over
PLAIN = torch.randn(3, 6)
STATS = torch.randn(2, 4, 4, 1)
CASES = {
    "gelu": (aten.gelu_backward.default, (PLAIN, PLAIN.clone())),
    "silu": (aten.silu_backward.default, (PLAIN, PLAIN.clone())),
    "hardswish": (aten.hardswish_backward.default, (PLAIN, PLAIN.clone())),
    "layer norm": (
        aten.native_layer_norm.default,
        (VALUES, [6], torch.ones(6), torch.zeros(6), 1e-5),
    ),
    "layer norm without weights": (aten.native_layer_norm.default, (PLAIN, [6], None, None, 1e-5)),
    "layer norm backward": (
        aten.native_layer_norm_backward.default,
        (
            VALUES.clone(),
            VALUES,
            [6],
            STATS,
            STATS,
            torch.ones(6),
            torch.zeros(6),
            [True, True, False],
        ),
    ),
}


def on_meta(value):
    return value.to("meta") if isinstance(value, Tensor) else value


def described(out):
    tensors = out if isinstance(out, tuple) else (out,)
    return [None if t is None else (t.shape, t.dtype, t.is_contiguous()) for t in tensors]


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_real_kernel(name):
    operation, arguments = CASES[name]
    made = SHAPES_ONLY[operation](*map(on_meta, arguments))
    assert described(made) == described(operation(*arguments))


def test_every_operation_is_compared():
    assert {operation for operation, _ in CASES.values()} == set(SHAPES_ONLY)
