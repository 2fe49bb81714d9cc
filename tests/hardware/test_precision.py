from pathlib import Path

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import (
    Gpu,
    float32_matmul_precision,
    lightning_precision,
    load_catalogue,
    resolve_precision,
)

CATALOGUE = load_catalogue(Path(__file__).parents[2] / "conf" / "gpu")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [("gtx1660ti", "fp32"), ("rtx2060", "fp16"), ("v100", "fp16"), ("rtx3060", "bf16")],
)
def test_auto_takes_the_cards_recommendation_also_when_only_facts_are_known(stem, expected):
    gpu = CATALOGUE[stem]
    choice = resolve_precision("auto", gpu, is_cuda=True)
    assert (choice.value, choice.evidence) == (expected, "table")
    bare = Gpu(
        name="bare", compute_capability=gpu.compute_capability, tensor_tflops=gpu.tensor_tflops
    )
    assert resolve_precision("auto", bare, is_cuda=True).value == expected


@pytest.mark.parametrize("gpu", [None, CATALOGUE["cpu"], CATALOGUE["rtx4090"]])
def test_auto_on_a_cpu_is_fp32_whatever_the_preset(gpu):
    assert resolve_precision("auto", gpu, is_cuda=False).value == "fp32"


def test_an_unknown_card_says_that_it_is_unknown():
    choice = resolve_precision("auto", None, is_cuda=True)
    assert choice.value == "fp32"
    assert "nothing is known" in choice.reason


@pytest.mark.parametrize(
    ("requested", "stem", "is_cuda", "message"),
    [
        ("bf16", "rtx2060", True, "only emulates bf16.*precision=fp16"),
        ("bf16", "gtx1660ti", True, "only emulates bf16.*precision=fp32"),
        ("bf16", "v100", True, "starts at SM 8.0"),
        ("fp16", "gtx1660", True, "no tensor cores.*NaN"),
        ("fp16", "cpu", False, "'16-mixed' on a CPU becomes bf16"),
        ("fp8", "h100", True, "unknown precision"),
    ],
)
def test_what_the_hardware_cannot_do_is_refused_with_the_reason(requested, stem, is_cuda, message):
    with pytest.raises(InputError, match=message):
        resolve_precision(requested, CATALOGUE[stem], is_cuda)


def test_a_preset_that_recommends_the_impossible_is_refused_too():
    wrong = Gpu(name="wrong", compute_capability="7.5", precision="bf16")
    with pytest.raises(InputError, match="precision=bf16: wrong"):
        resolve_precision("auto", wrong, is_cuda=True)


@pytest.mark.parametrize(
    ("requested", "stem", "is_cuda"),
    [
        ("fp32", "gtx1660", True),
        ("fp16", "rtx2060", True),
        ("fp16", "rtx4090", True),
        ("tf32", "a100", True),
        ("bf16", "cpu", False),
    ],
)
def test_a_possible_request_is_given(requested, stem, is_cuda):
    choice = resolve_precision(requested, CATALOGUE[stem], is_cuda)
    assert (choice.value, choice.evidence) == (requested, "given")


@pytest.mark.parametrize(("stem", "is_cuda"), [("rtx2060", True), ("cpu", False)])
def test_tf32_where_there_is_none_is_called_fp32(stem, is_cuda):
    choice = resolve_precision("tf32", CATALOGUE[stem], is_cuda)
    assert choice.value == "fp32"
    assert "no TF32" in choice.reason


def test_library_names():
    names = {n: lightning_precision(n) for n in ("fp32", "tf32", "bf16", "fp16")}
    assert list(names.values()) == ["32-true", "32-true", "bf16-mixed", "16-mixed"]
    assert float32_matmul_precision("fp32") == "highest"
    assert {float32_matmul_precision(n) for n in ("tf32", "bf16", "fp16")} == {"high"}
    for function in (lightning_precision, float32_matmul_precision):
        with pytest.raises(InputError, match="precision=auto: unknown"):
            function("auto")
