"""What is typed reaches Hydra as it was meant, whatever language its folders are named in."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from gpuopt.override_words import quoted, readable, unquoted

NAMES = ["plain", "a b", "it's", "a=b,c", "ä{}[]", "a\\b", "a\\'b", "end\\", "x\\\\y", "사진"]


def parsed(word):
    return OverridesParser.create().parse_override(word)


@pytest.mark.parametrize("name", NAMES)
def test_hydra_reads_back_what_is_quoted(name):
    override = parsed(f"x={quoted(name)}")
    assert override.value() == name
    assert not override.is_sweep_override()


@pytest.mark.parametrize("name", ["a b", "it's", "사진"])
def test_quotes_come_off_again(name):
    assert unquoted(quoted(name)) == name
    assert unquoted(name) == name
    assert unquoted("'") == "'"


@pytest.mark.parametrize(
    "value",
    ["사진", "фото/кот", "photos (1)", "R&D", "#1", "a!b", "it's", "a;b", "~/é", "a=b", "x(1)"],
)
def test_values_that_hydra_cannot_read_get_quotes(value):
    with pytest.raises(HydraException):
        parsed(f"data.root={value}")
    assert parsed(readable(f"data.root={value}")).value() == value


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "data.root=a b/c:d@e",
        "data.root='사진'",
        'data.root="it\'s"',
        "gpu_ids=[0,1]",
        "x={a: 사진}",
        "data.root=${oc.env:HOME}/사진",
        "seed=range(1, 5)",
        "seed=choice(1,2)",
        "seed=choice(",
        "seed=\x1b(2",
        "x='a,b',(c)",
        "--사진",
        "(1)",
    ],
)
def test_what_hydra_reads_stays(word):
    assert readable(word) == word


def test_levels_of_checkpointing_need_no_quotes():
    word = readable("model.checkpointing=none,stages=2,full")
    assert word == "model.checkpointing=none,'stages=2',full"


def test_each_value_of_a_sweep_gets_its_own_quotes():
    override = parsed(readable("data.root=사진,photos,그림 (2)"))
    assert override.is_sweep_override()
    assert [str(value) for value in override.sweep_string_iterator()] == [
        "'사진'",
        "photos",
        "'그림 (2)'",
    ]
