import io
import json

import pytest
from rich.console import Console

from gpuopt.measure import Interval
from gpuopt.session.recommendation import (
    TTA_SCORES,
    TtaRecommendation,
    read_tta_scores,
    write_tta_scores,
)
from gpuopt.session.recommendation_table import recommendation_table
from gpuopt.tta import parse_views
from gpuopt.tta.frontier import PolicyScores, ScoredPolicy
from gpuopt.tta.recommender import mark_frontier, recommend
from gpuopt.tta.time_model import TtaTime

VIEWS = parse_views([{}, {"rotate": 90}, {"rotate": 180}])
TIME = TtaTime(5.0, 1.0, 1e-4, 0.0, 1e-2, {}, 0.9, 1.1, 32, "measured", "here")


def policy(name, views, f1, gain=None):
    difference = None if gain is None else Interval(gain, gain - 0.01, gain + 0.01)
    score = Interval(f1, f1 - 0.01, f1 + 0.01)
    return ScoredPolicy(name, VIEWS[:views], "mean", score, difference, f1, f1, name != "greedy_2")


SCORES = PolicyScores([policy("none", 1, 0.9), policy("greedy_2", 2, 0.92, 0.02)], 100, 101)


def answer(target_minutes=None, min_f1=None, folds=1, **options):
    options_ = mark_frontier([(p, TIME.minutes(6000, p.views)) for p in SCORES.policies])
    found = recommend(options_, target_minutes=target_minutes, min_f1=min_f1)
    return TtaRecommendation(
        *("run", "test_vit", 32, folds, 6000, SCORES, TIME, options_, found),
        *(target_minutes, min_f1),
        **options,
    )


def shown(found):
    console = Console(width=110, file=io.StringIO())
    console.print(recommendation_table(found))
    return console.file.getvalue()


def test_the_answer_is_one_line_with_worth_time_and_evidence():
    found = answer(target_minutes=20, min_f1=0.905)
    assert found.shortfall is None
    assert found.answer == (
        "tta=greedy_2: 2 views, 2 min 07 s measured, at most 2 min 19 s, macro-F1 0.920 (0.910 to "
        "0.930); the cheapest whose macro-F1 is surely enough"
    )
    assert found.as_dict()["chosen"] == "greedy_2"
    assert [point.is_chosen for point in found.points] == [False, True]


def test_none_is_said_with_the_nearest():
    found = answer(target_minutes=20, min_f1=0.95)
    assert found.shortfall == found.answer
    assert found.answer.startswith(
        "target_minutes=20 min_f1=0.95: none; the nearest is greedy_2: 2 views, 2 min 07 s"
    )
    assert (found.as_dict()["chosen"], found.as_dict()["nearest"]) == (None, "greedy_2")


def test_the_table_fits_and_says_what_was_judged_on_what():
    text = shown(answer(min_f1=0.905, folds=3, notes=["a\x1b note"]))
    assert max(map(len, text.splitlines())) <= 110
    for words in (
        "the mean of 3 folds: 6000 images",
        "101 out-of-fold images",
        "chosen on 100 others",
        "recommended",
        "+0.020",
        "views of greedy_2: identity, rotate 90",
        "time (measured): here; 100 views a second in chunks of 32, 6.0 s to start",
        "a note",
    ):
        assert words in text.replace("\n", " ")


def test_nothing_of_a_long_row_is_cut_off():
    gain = Interval(-0.911, -0.96, -0.85)
    score = Interval(0.985, 0.959, 1.0)
    long = ScoredPolicy("comprehensive", VIEWS * 5, "mean", score, gain, 0.9, 0.9, is_preset=True)
    time = TtaTime(500.0, 100.0, 1e-4, 0.0, 1e-2, {}, 0.9, 1.13, 32, "measured", "here")
    options = mark_frontier([(long, time.minutes(654_321, long.views))])
    found = recommend(options, target_minutes=None, min_f1=0.9)
    scores = PolicyScores([long], 100, 101)
    shape = ("run", "test_vit", 32, 1, 654_321, scores, time, options, found, None, 0.9)
    text = shown(TtaRecommendation(*shape))
    for words in ("comprehensive", "0.985  0.959 to 1.000", "-0.960 to -0.850", "recommended"):
        assert words in text
    assert "\u2026" not in text


def test_scores_are_left_for_the_check(tmp_path):
    write_tta_scores(tmp_path, {"checkpoints/best.ckpt": "d"}, SCORES)
    weights, images, found = read_tta_scores(tmp_path / TTA_SCORES)
    assert (weights, images) == ({"checkpoints/best.ckpt": "d"}, 101)
    assert found == {p.name: p.macro_f1 for p in SCORES.policies}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(schema=2),
        lambda content: content.pop("weights"),
        lambda content: content.update(weights=[1]),
        lambda content: content["policies"][0].update(macro_f1=None),
        lambda content: content["policies"][0]["macro_f1"].update(low="x"),
        lambda content: content.update(policies=3),
    ],
)
def test_a_damaged_file_is_a_value_error(tmp_path, change):
    write_tta_scores(tmp_path, {"a": "d"}, SCORES)
    content = json.loads((tmp_path / TTA_SCORES).read_text())
    change(content)
    (tmp_path / TTA_SCORES).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"\w"):
        read_tta_scores(tmp_path / TTA_SCORES)
