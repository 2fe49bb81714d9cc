from dataclasses import replace

import pytest

from gpuopt.checks.planned_speed import PlannedSpeed
from gpuopt.checks.tier import REFERENCE_SIZE, TIERS, reference_speed, tier_of
from gpuopt.measure import Interval
from tests.checks.machines import CATALOGUE, request


def speed(samples, rate):
    interval = None if rate is None else Interval(rate, rate, rate)
    return PlannedSpeed("m", REFERENCE_SIZE, "bf16", samples, 8, "none", interval, interval)


@pytest.mark.parametrize(
    ("samples", "rate", "name", "limit"),
    [
        (32, 90.0, "high-end", ""),
        (31, 500.0, "mid-range", "memory"),
        (500, 89.0, "mid-range", "speed"),
        (16, 45.0, "mid-range", "both"),
        (15, 44.0, "budget", "both"),
        (15, 500.0, "budget", "memory"),
        (8, 20.0, "budget", "both"),
        (7, 500.0, "low-end", "memory"),
        (500, 19.0, "low-end", "speed"),
        (24, None, "mid-range", "memory"),  # the speed is not known: the memory decides
        (None, 100.0, "high-end", ""),  # processors
        (None, 0.1, "low-end", "speed"),
    ],
)
def test_both_memory_and_speed_are_needed(samples, rate, name, limit):
    tier = tier_of(speed(samples, rate))
    assert (tier.name, tier.limit) == (name, limit)
    if limit:
        above = TIERS[TIERS.index(name) - 1]
        assert f"{above} needs" in tier.reason
    assert tier.as_dict()["evidence"] == "predicted"


def test_a_name_has_no_part_in_it():
    card = CATALOGUE["rtx3060"]
    asked = request()
    assert tier_of(reference_speed(asked, card)) == tier_of(
        reference_speed(asked, replace(card, name="RTX 9090", nvml_name="NVIDIA RTX 9090"))
    )


def test_the_catalogue_is_ranked_by_what_the_cards_can_do():
    asked = request()
    ranks = {
        stem: tier_of(reference_speed(asked, CATALOGUE[stem])).name
        for stem in ("gtx1660ti", "rtx3060", "rtx3070ti", "rtx4070", "rtx4080", "h100")
    }
    assert ranks == {
        "gtx1660ti": "low-end",
        "rtx3060": "budget",  # the guide: low-end
        "rtx3070ti": "budget",  # the guide: mid-range, but it has 8 GB
        "rtx4070": "mid-range",  # the guide: budget
        "rtx4080": "high-end",
        "h100": "high-end",
    }
