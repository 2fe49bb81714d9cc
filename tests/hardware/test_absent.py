from dataclasses import asdict

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import AbsentGpu, load_catalogue
from gpuopt.hardware.policy import recommended_headroom_ratio
from gpuopt.schema import CONF_DIR

CATALOGUE = load_catalogue(CONF_DIR / "gpu")


@pytest.mark.parametrize(
    "memory", [{"memory_gib": 6}, {"memory_mib": 6144}, {"memory_limit_mib": 6144}]
)
def test_a_memory_alone_is_a_card(memory):
    asked = AbsentGpu(**memory)
    asked.check()
    assert asked.is_nameless
    card = asked.card()
    assert (card.name, card.memory_mib, card.precision) == ("6 GiB", 6144, "bf16")
    assert card.headroom("predicted") == recommended_headroom_ratio(6144)


def test_what_is_given_wins_over_what_is_recommended():
    card = AbsentGpu(memory_gib=10.5, headroom_ratio=0.0, precision="fp32").card()
    assert (card.memory_mib, card.headroom_ratio, card.precision) == (10752, 0.0, "fp32")


def test_a_preset_is_itself_and_may_get_another_memory():
    preset = {**asdict(CATALOGUE["rtx3060"]), "seed": None}
    same = AbsentGpu(**preset)
    assert not same.is_nameless
    assert asdict(same.card()) == preset
    assert AbsentGpu(**preset, memory_gib=8).card().memory_mib == 8192


def test_no_memory_is_no_card_of_its_own():
    assert not AbsentGpu().is_nameless


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory_gib": 0}, "gpu.memory_gib=0"),
        ({"memory_gib": -1.0}, "gpu.memory_gib"),
        ({"memory_gib": float("nan")}, "gpu.memory_gib"),
        ({"memory_gib": 10**6}, "at most 1024"),
        ({"memory_gib": 6, "memory_mib": 6144}, "one memory"),
        ({"memory_gib": 6, "headroom_ratio": 2.0}, "headroom_ratio"),
    ],
)
def test_absurd_memories_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        AbsentGpu(**values).check()


def test_a_limit_above_the_memory_is_refused():
    with pytest.raises(InputError, match="memory_limit_mib"):
        AbsentGpu(memory_gib=6, memory_limit_mib=8192).card()
