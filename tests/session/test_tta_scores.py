import json

import pytest

from gpuopt.measure import Interval
from gpuopt.session.tta_scores import TTA_SCORES, read_tta_scores, write_tta_scores
from gpuopt.tta import TestTimeAugmentation, parse_views
from gpuopt.tta.frontier import PolicyScores, ScoredPolicy

WEIGHTS = {"checkpoints/best.ckpt": "d"}


VIEWS = {
    "none": [{}],
    "essential": [{}, {"hflip": True}],
    "greedy_2": [{}, {"rotate": 90}],
    "greedy_3": [{}, {"rotate": 90}, {"scale": 0.9, "weight": 0.5}],
}
NAMES = {TestTimeAugmentation(name, views).fingerprint: name for name, views in VIEWS.items()}


def policy(name, f1=0.9, views=None):
    score = Interval(f1, f1 - 0.01, f1 + 0.01)
    is_preset = not name.startswith("greedy")
    parsed = parse_views(VIEWS[name] if views is None else views)
    return ScoredPolicy(name, parsed, "mean", score, None, f1, f1, is_preset)


def scores(*policies, report_images=101):
    return PolicyScores(policies, 100, report_images)


SCORES = scores(policy("none"), policy("greedy_2", 0.92))


def test_scores_are_left_for_the_check(tmp_path):
    write_tta_scores(tmp_path, WEIGHTS, "i", SCORES)
    weights, images, found = read_tta_scores(tmp_path / TTA_SCORES)
    assert (weights, images) == (WEIGHTS, 101)
    assert {NAMES[key]: worth for key, worth in found.items()} == {
        p.name: p.macro_f1 for p in SCORES.policies
    }


def test_a_policy_is_known_by_what_it_does_and_not_by_its_name(tmp_path):
    write_tta_scores(tmp_path, WEIGHTS, "i", scores(policy("essential", 0.8)))
    renamed = policy("none", 0.9, views=VIEWS["essential"])
    write_tta_scores(tmp_path, WEIGHTS, "i", scores(renamed))
    *_, found = read_tta_scores(tmp_path / TTA_SCORES)
    assert {NAMES[key]: worth.value for key, worth in found.items()} == {"essential": 0.9}


def test_what_was_scored_before_stays_beside_fewer_policies(tmp_path):
    first = scores(policy("none"), policy("essential"), policy("greedy_2"), policy("greedy_3"))
    write_tta_scores(tmp_path, WEIGHTS, "i", first)
    write_tta_scores(tmp_path, WEIGHTS, "i", scores(policy("none", 0.8), policy("greedy_2", 0.7)))
    *_, found = read_tta_scores(tmp_path / TTA_SCORES)
    # Views of another search are other ones, by whatever name.
    assert {NAMES[key]: worth.value for key, worth in found.items()} == {
        "none": 0.8,
        "greedy_2": 0.7,
        "essential": 0.9,
    }


@pytest.mark.parametrize(
    ("weights", "images", "count"),
    [
        ({"checkpoints/best.ckpt": "e"}, "i", 101),
        ({**WEIGHTS, "b": "e"}, "i", 101),
        (WEIGHTS, "j", 101),
        (WEIGHTS, "i", 99),
    ],
)
def test_scores_of_other_weights_or_images_do_not_stay(tmp_path, weights, images, count):
    write_tta_scores(tmp_path, WEIGHTS, "i", scores(policy("essential")))
    write_tta_scores(tmp_path, weights, images, scores(policy("none"), report_images=count))
    *_, found = read_tta_scores(tmp_path / TTA_SCORES)
    assert {NAMES[key] for key in found} == {"none"}


def changed(change):
    content = {
        "schema": 1,
        "weights": dict(WEIGHTS),
        "images": "i",
        "report_images": 101,
        "policies": [p.as_dict() for p in SCORES.policies],
    }
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(schema=2),
        lambda content: content.pop("weights"),
        lambda content: content.update(weights=[1]),
        lambda content: content.update(weights={}),
        lambda content: content.update(weights={"a": 1}),
        lambda content: content.update(weights={"a\0b": "d"}),
        lambda content: content.update(weights={"\ud800": "d"}),
        lambda content: content.update(weights={"a" * 300: "d"}),
        lambda content: content.update(report_images=0),
        lambda content: content.update(report_images=True),
        lambda content: content.update(report_images=1e9),
        lambda content: content["policies"][0].update(macro_f1=None),
        lambda content: content["policies"][0].update(name=["none"]),
        lambda content: content["policies"][0].update(merge="sum"),
        lambda content: content["policies"][0].update(views=[{"rotate": "x"}]),
        lambda content: content["policies"][0].update(views=[{"rotate": 10**400}]),
        lambda content: content["policies"][0].pop("views"),
        lambda content: content["policies"][0]["macro_f1"].update(low="x"),
        lambda content: content["policies"][0]["macro_f1"].update(low="0.5"),
        lambda content: content["policies"][0]["macro_f1"].update(value=float("nan")),
        lambda content: content["policies"][0]["macro_f1"].update(high=10**400),
        lambda content: content["policies"][0]["macro_f1"].update(high=1.5),
        lambda content: content.update(policies=3),
        lambda content: content.update(policies=["none"]),
        lambda content: content.update(policies=content["policies"] * 200),
    ],
)
def test_a_damaged_file_is_a_value_error(tmp_path, change):
    (tmp_path / TTA_SCORES).write_text(changed(change))
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$"):
        read_tta_scores(tmp_path / TTA_SCORES)
    write_tta_scores(tmp_path, WEIGHTS, "i", SCORES)  # is written anew
    assert read_tta_scores(tmp_path / TTA_SCORES)[1] == 101


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed(lambda _: None).replace("0.92", "1e400"), "1e400 is no number"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (1 << 20) + "{}", "too large"),
        ("\xff", "schema|Expecting|decode"),
        ("", "Expecting value"),
    ],
)
def test_a_hostile_file_is_a_value_error(tmp_path, text, words):
    (tmp_path / TTA_SCORES).write_text(text, "latin-1")
    with pytest.raises(ValueError, match=words):
        read_tta_scores(tmp_path / TTA_SCORES)


def test_what_is_no_file_is_a_value_error_and_a_missing_one_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tta_scores(tmp_path / TTA_SCORES)
    (tmp_path / TTA_SCORES).mkdir()
    with pytest.raises(ValueError, match="no file"):
        read_tta_scores(tmp_path / TTA_SCORES)
