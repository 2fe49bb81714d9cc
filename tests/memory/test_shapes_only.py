import pytest
import torch
from torch import Tensor

from gpuopt.memory.shapes_only import SHAPES_ONLY

aten = torch.ops.aten
VALUES = torch.randn(2, 6, 4, 4).permute(0, 2, 3, 1)  # as timm's LayerNorm2d hands them over
PLAIN = torch.randn(3, 6)
STATS = torch.randn(2, 4, 4, 1)
IMAGES = torch.randn(2, 6, 4, 4).contiguous(memory_format=torch.channels_last)
ONES, ZEROS = torch.ones(6), torch.zeros(6)
NORM_BACKWARD = (IMAGES.clone(), IMAGES, ONES, ZEROS, ONES, ZEROS, ONES)
CASES = {
    "linear": (aten.addmm.default, (torch.ones(5), PLAIN, torch.ones(6, 5))),
    "gelu forward": (aten.gelu.default, (PLAIN,)),
    "batch norm": (
        aten.native_batch_norm.default,
        (IMAGES, ONES, ZEROS, ZEROS, ONES, True, 0.1, 1e-5),
    ),
    "batch norm in evaluation": (
        aten.native_batch_norm.default,
        (IMAGES, ONES, ZEROS, ZEROS, ONES, False, 0.1, 1e-5),
    ),
    "batch norm backward": (
        aten.native_batch_norm_backward.default,
        (*NORM_BACKWARD, True, 1e-5, [True, True, True]),
    ),
    "batch norm backward, frozen": (
        aten.native_batch_norm_backward.default,
        (*NORM_BACKWARD, True, 1e-5, [True, False, False]),
    ),
    "gelu": (aten.gelu_backward.default, (PLAIN, PLAIN.clone())),
    "silu": (aten.silu_backward.default, (PLAIN, PLAIN.clone())),
    "hardswish": (aten.hardswish_backward.default, (PLAIN, PLAIN.clone())),
    "layer norm": (
        aten.native_layer_norm.default,
        (VALUES, [6], ONES, ZEROS, 1e-5),
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
            ONES,
            ZEROS,
            [True, True, False],
        ),
    ),
}


def on_meta(value):
    return value.to("meta") if isinstance(value, Tensor) else value


def described(out):
    tensors = out if isinstance(out, tuple) else (out,)
    return [None if t is None else (t.shape, t.dtype, t.stride()) for t in tensors]


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_real_kernel(name):
    operation, arguments = CASES[name]
    made = SHAPES_ONLY[operation](*map(on_meta, arguments))
    assert described(made) == described(operation(*arguments))


def test_every_operation_is_compared():
    assert {operation for operation, _ in CASES.values()} == set(SHAPES_ONLY)
