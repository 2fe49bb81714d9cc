"""The one dial for memory, under the names that the guide has for it."""

import pytest

from gpuopt.config import compose_settings
from gpuopt.configuration import translate_arguments
from gpuopt.configuration.seed_flags import KEYS
from gpuopt.errors import InputError


@pytest.mark.parametrize("command", KEYS)
@pytest.mark.parametrize(
    ("word", "ratio"),
    [
        ("headroom=0.1", "0.1"),
        ("safety_factor=0.95", "0.05"),
        ("safety-factor=0.95", "0.05"),
        ("memory_fraction=.8", "0.2"),
        ("memory_safety_margin=0.15", "0.15"),
        ("safety_factor=0.9,0.8", "0.1,0.2"),
    ],
)
def test_the_share_of_memory_is_one_dial_with_several_names(command, word, ratio):
    found = translate_arguments(command, ["gpu=rtx3060", word, "debug=true"])
    assert found == ["gpu=rtx3060", f"gpu.headroom_ratio={ratio}", "debug=true"]


@pytest.mark.parametrize("second", ["memory_fraction=0.9", "gpu.headroom_ratio=0.1", "headroom=0"])
def test_two_names_of_the_dial_at_once_are_refused(second):
    for words in (["safety_factor=0.9", second], [second, "safety_factor=0.9"]):
        with pytest.raises(InputError, match=r"one dial.*give one of them") as caught:
            translate_arguments("find_batch_size", words)
        assert str(caught.value).startswith(" ".join(words))


@pytest.mark.parametrize("word", ["headroom=lots", "safety_factor=", "memory_fraction=90%"])
def test_a_share_that_is_no_number_is_refused(word):
    with pytest.raises(InputError, match="give a number from 0 to 1"):
        translate_arguments("train", [word])


def test_a_share_out_of_range_is_refused_by_the_card():
    assert compose_settings("train", ["safety_factor=0.95"])["gpu"]["headroom_ratio"] == 0.05
    with pytest.raises(InputError, match=r"gpu\.headroom_ratio=-0\.1"):
        compose_settings("train", ["safety_factor=1.1"])
