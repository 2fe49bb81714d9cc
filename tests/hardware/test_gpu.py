import math

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpuopt.errors import InputError
from gpuopt.hardware import MEASURED_HEADROOM_RATIO, Gpu, SeedRow
from gpuopt.hardware.policy import recommended_headroom_ratio


def card(**changes):
    facts = {"name": "Card", "memory_mib": 8192, "compute_capability": "8.6", "precision": "bf16"}
    return Gpu(**(facts | {"num_workers": 4, "image_size": 256, "headroom_ratio": 0.1} | changes))


def test_a_sensible_card_passes_and_so_does_one_that_is_all_unknown():
    card().check()
    card(memory_limit_mib=8192, headroom_ratio=0.9, num_workers=0).check()
    Gpu().check()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory_mib", -1),
        ("memory_mib", 0),
        ("sm_count", -3),
        ("tdp_w", math.nan),
        ("tensor_tflops", math.inf),
        ("fp32_tflops", 0.0),
        ("memory_bandwidth_gb_per_s", -1.0),
        ("headroom_ratio", -0.01),
        ("headroom_ratio", 0.91),
        ("headroom_ratio", math.nan),
        ("memory_limit_mib", 0),
        ("memory_limit_mib", 8193),
        ("precision", "fp17"),
        ("num_workers", -1),
        ("num_workers", 100_000),
        ("image_size", 0),
        ("image_size", 100_000),
        ("compute_capability", "86"),
        ("compute_capability", "8.x"),
    ],
)
def test_absurd_numbers_are_refused_by_key(key, value):
    with pytest.raises(InputError, match=f"gpu.{key}="):
        card(**{key: value}).check()


def test_the_budget_is_the_smaller_of_memory_and_limit_less_the_headroom():
    assert card().budget_bytes() == int(8192 * 2**20 * 0.9)
    assert card(memory_limit_mib=4096).budget_bytes() == int(4096 * 2**20 * 0.9)
    with pytest.raises(InputError, match="memory_mib is unknown"):
        Gpu().budget_bytes()


@pytest.mark.parametrize("ratio", [0.0, 0.08, 0.5])
def test_a_headroom_that_is_given_holds_for_predictions_and_measurements(ratio):
    gpu = card(headroom_ratio=ratio)
    assert gpu.headroom("predicted") == gpu.headroom("measured") == ratio
    assert gpu.budget_bytes() == int(8192 * 2**20 * (1 - ratio))


@pytest.mark.parametrize("limit", [None, 6144])
def test_without_one_a_measurement_needs_less_than_a_prediction(limit):
    gpu = card(headroom_ratio=None, memory_limit_mib=limit)
    assert gpu.headroom("measured") == MEASURED_HEADROOM_RATIO == 0.03
    predicted = recommended_headroom_ratio(limit or 8192)
    assert gpu.headroom("predicted") == predicted >= 0.08
    assert gpu.budget_bytes() == int((limit or 8192) * 2**20 * (1 - predicted))


def test_what_is_pinned_on_auto_wins_over_the_card_that_is_found():
    filled = Gpu(headroom_ratio=0.0, memory_limit_mib=6144).filled_from(card())
    assert filled == card(headroom_ratio=0.0, memory_limit_mib=6144)


def test_it_serves_as_a_schema():
    schema = OmegaConf.structured(Gpu)
    merged = OmegaConf.merge(schema, {"memory_mib": 6144, "seed": {"batch_size": 16}})
    gpu = OmegaConf.to_object(merged)
    assert gpu == Gpu(memory_mib=6144, seed=SeedRow(batch_size=16))
    for wrong in ({"memory": 6144}, {"memory_mib": "much"}, {"seed": {"batch": 16}}):
        with pytest.raises(OmegaConfBaseException):
            OmegaConf.merge(schema, wrong)
