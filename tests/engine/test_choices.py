import pytest
import torch

from gpuopt.engine.choices import engine_batches, engine_precision
from gpuopt.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "device", "value", "evidence"),
    [
        ("auto", CPU, "fp32", "table"),
        ("auto", CUDA, "fp16", "table"),
        ("bf16", CUDA, "bf16", "given"),
        ("tf32", CUDA, "fp32", "given"),
    ],
)
def test_precision(asked, device, value, evidence):
    choice = engine_precision(asked, device)
    assert (choice.key, choice.value, choice.evidence) == ("precision", value, evidence)


@pytest.mark.parametrize(
    ("optimal", "maximum", "expected"),
    [("auto", "auto", (32, 32)), ("auto", 8, (8, 8)), (8, "auto", (8, 8)), (4, 64, (4, 64))],
)
def test_batches(optimal, maximum, expected):
    best, most = engine_batches(optimal, maximum, 32)
    assert (best.value, most.value) == expected
    assert {best.key, most.key} == {"optimal_batch_size", "max_batch_size"}


def test_an_optimal_batch_above_the_maximum_is_refused():
    with pytest.raises(InputError, match="optimal_batch_size=9 is above max_batch_size=8"):
        engine_batches(9, 8, 32)
