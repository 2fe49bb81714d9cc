import math

import pytest

from gpuopt.errors import InputError
from gpuopt.tta import View, parse_views


def test_views_keep_order_values_and_weight():
    views = parse_views([{}, {"rotate": 90, "contrast": 1.15}, {"hflip": True, "weight": 0.5}])
    assert views == (
        View(),
        View((("rotate", 90.0), ("contrast", 1.15))),
        View((("hflip", 1.0),), weight=0.5),
    )
    assert views[0].is_identity
    assert not views[2].is_identity


def test_names_are_readable():
    names = [
        view.name for view in parse_views([{}, {"rotate": 90, "contrast": 1.15}, {"hflip": True}])
    ]
    assert names == ["identity", "rotate 90 · contrast 1.15", "hflip"]


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ([{"rotat": 90}], ["tta.views[0]", "'rotat'", "nearest: rotate"]),
        ([{}, {"rotate": "90"}], ["tta.views[1].rotate", "'90'", "degrees"]),
        ([{"rotate": True}], ["tta.views[0].rotate", "True"]),
        ([{"rotate": None}], ["tta.views[0].rotate"]),
        ([{"brightness": math.nan}], ["brightness", "nan"]),
        ([{"brightness": math.inf}], ["brightness", "0.1 to 10"]),
        ([{"brightness": 0}], ["brightness", "0.1 to 10"]),
        ([{"brightness": -1}], ["brightness", "-1"]),
        ([{"scale": 10**400}], ["scale", "0.25 to 4"]),
        ([{"motion_blur": 4}], ["motion_blur", "odd"]),
        ([{"motion_blur": 4.5}], ["motion_blur", "odd"]),
        ([{"hflip": False}], ["hflip", "true"]),
        ([{"hflip": 1}], ["hflip", "true"]),
        ([{"weight": 0}], ["weight"]),
        ([{"weight": "2"}], ["weight"]),
        ([{3: 1}], ["unknown operation 3"]),
        ([{}, {"rotate": 90}, {"rotate": 90.0, "weight": 2}], ["tta.views[2]", "tta.views[1]"]),
        ([], ["at least one view"]),
        ({"rotate": 90}, ["a list"]),
        ("rotate", ["a list"]),
        (None, ["a list"]),
        (["rotate"], ["tta.views[0]", "map"]),
        ([{"rotate": angle} for angle in range(300)], ["300 views"]),
    ],
)
def test_bad_views_are_named(views, words):
    with pytest.raises(InputError) as error:
        parse_views(views)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_view_becomes_the_mapping_that_it_came_from():
    mappings = [{}, {"rotate": 90, "contrast": 1.15}, {"hflip": True, "weight": 0.5}, {"noise": 8}]
    assert [view.mapping for view in parse_views(mappings)] == mappings
    assert [type(value) for value in parse_views(mappings)[1].mapping.values()] == [int, float]
