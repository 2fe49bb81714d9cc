"""What a prediction takes from a `calibration.json`, and that a stranger's file does no harm."""

import json
import os

import pytest

from gpuopt.errors import InputError
from gpuopt.session.stored_calibration import find_calibration, read_calibration
from gpuopt.storage import sha256_of
from gpuopt.tta import TestTimeAugmentation

ESSENTIAL = TestTimeAugmentation("essential", [{}, {"rotate": 90}])
NONE = TestTimeAugmentation()
DIGEST = "a" * 64


def policy(views, temperature):
    figures = {"before": {"nll": {"value": 0.5}}, "after": {"nll": {"value": 0.25}}}
    own = {"name": views.name, "fingerprint": views.fingerprint, "temperature": temperature}
    return own | figures


def content(**changes):
    return {
        "schema": 1,
        "images": 314,
        "fitted_on": "validation images",
        "weights_sha256": [DIGEST],
        "policies": [policy(ESSENTIAL, 1.5), policy(NONE, 2.0)],
    } | changes


def stored(folder, **changes):
    (folder / "calibration.json").write_text(json.dumps(content(**changes)))
    return folder / "calibration.json"


def test_the_policys_own_temperature_is_taken_whatever_it_is_called(tmp_path):
    found = read_calibration(stored(tmp_path))
    renamed = TestTimeAugmentation("mine", [{"rotate": 90}, {}], chunk_size=3)
    for views in (ESSENTIAL, renamed):
        temperature, choice = found.choose(views)
        assert temperature == 1.5
        assert "temperature 1.500" in str(choice)
        assert "NLL 0.500 to 0.250 on 314 validation images" in str(choice)
        assert f"tta={views.name}:" in str(choice)
    assert found.choose(NONE)[0] == 2.0


@pytest.mark.parametrize(
    "views",
    [
        TestTimeAugmentation("essential", [{}, {"rotate": 180}]),
        TestTimeAugmentation("essential", [{}, {"rotate": 90, "weight": 2}]),
        TestTimeAugmentation("essential", [{}, {"rotate": 90}], merge="geometric"),
    ],
)
def test_other_views_take_the_one_without_tta_and_one_line_says_why(tmp_path, views):
    temperature, choice = read_calibration(stored(tmp_path)).choose(views)
    assert temperature == 2.0
    assert "the one without TTA, as none was fitted for the views of tta=essential" in str(choice)
    assert "\n" not in str(choice)


def test_other_weights_are_refused_and_missing_folds_are_not(tmp_path):
    found = read_calibration(stored(tmp_path, weights_sha256=[DIGEST, "b" * 64]))
    found.require_weights(["b" * 64])
    found.require_weights([DIGEST, "b" * 64])
    with pytest.raises(InputError, match=r"other weights than these.*use_calibration=false"):
        found.require_weights([DIGEST, "c" * 64])


DAMAGED = {
    "schema": {"schema": 2},
    "images": {"images": 0},
    "images, a flag": {"images": True},
    "images, a huge number": {"images": 10**400},
    "other words": {"fitted_on": "\x1b[2J"},
    "no list": {"policies": {"name": "none"}},
    "empty": {"policies": []},
    "many": {"policies": [policy(NONE, 1.0)] * 65},
    "no policy": {"policies": [7]},
    "key": {"policies": [{"name": "none"}]},
    "no policy without TTA": {"policies": [policy(ESSENTIAL, 1.0)]},
    "name": {"policies": [policy(NONE, 1.0) | {"name": 3}]},
    "NaN": {"policies": [policy(NONE, float("nan"))]},
    "infinite": {"policies": [policy(NONE, float("inf"))]},
    "zero": {"policies": [policy(NONE, 0)]},
    "negative": {"policies": [policy(NONE, -1.0)]},
    "huge": {"policies": [policy(NONE, 10**400)]},
    "words": {"policies": [policy(NONE, "1.0")]},
    "flag": {"policies": [policy(NONE, True)]},
    "no NLL": {"policies": [policy(NONE, 1.0) | {"before": None}]},
    "weights": {"weights_sha256": "a" * 64},
    "short weights": {"weights_sha256": ["a"]},
    "kind of weights": {"weights_sha256": [["a"] * 64]},
}


def refused(folder, error):
    line = str(error)
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 400 + len(str(folder)) * 2
    assert f"{folder / 'calibration.json'} is damaged" in line
    assert "use_calibration=false" in line


@pytest.mark.parametrize("changes", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("use", ["auto", True])
def test_a_file_that_makes_no_sense_is_refused_in_one_line(tmp_path, changes, use):
    stored(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        find_calibration(tmp_path, use)
    refused(tmp_path, caught.value)
    assert find_calibration(tmp_path, False) is None


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 20) + b"{}", b"1" * 9999],
    ids=["empty", "cut", "list", "null", "binary", "deep", "large", "number"],
)
def test_bytes_that_are_none_of_ours_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "calibration.json").write_bytes(text)
    with pytest.raises(InputError) as caught:
        find_calibration(tmp_path, "auto")
    refused(tmp_path, caught.value)


@pytest.mark.parametrize("make", ["mkdir", "mkfifo", "symlink_to"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    path = tmp_path / "calibration.json"
    {
        "mkdir": path.mkdir,
        "mkfifo": lambda: os.mkfifo(path),
        "symlink_to": lambda: path.symlink_to(tmp_path / "nowhere"),
    }[make]()
    with pytest.raises(InputError) as caught:
        find_calibration(tmp_path, "auto")
    refused(tmp_path, caught.value)


def test_a_hostile_name_is_spelled_out_and_short(tmp_path):
    found = read_calibration(
        stored(tmp_path, policies=[policy(NONE, 1.5) | {"name": "\x1b[2J" + "x" * 10_000}])
    )
    assert found.policies[0].name.startswith("\\x1b[2Jxxx")
    assert len(found.policies[0].name) < 100


def test_a_run_without_one_has_none_unless_it_must(tmp_path):
    assert find_calibration(tmp_path, "auto") is None
    with pytest.raises(InputError, match=r"has no calibration.json; fit one with .*resume="):
        find_calibration(tmp_path, True)


def test_a_checkpoint_has_the_calibration_of_its_run_where_it_belongs_to_it(tmp_path):
    path = tmp_path / "run/checkpoints/best.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    stored(tmp_path / "run", weights_sha256=[sha256_of(path)])
    found = find_calibration(path, "auto")
    assert found is not None
    assert found.path.parent == tmp_path / "run"
    other = path.with_name("last.ckpt")
    other.write_bytes(b"others")
    assert find_calibration(other, "auto") is None
    asked = find_calibration(other, True)
    assert asked is not None
    with pytest.raises(InputError, match="other weights"):
        asked.require_weights([sha256_of(other)])
    alone = tmp_path / "best.ckpt"
    alone.write_bytes(b"weights")
    assert find_calibration(alone, "auto") is None
    with pytest.raises(InputError, match="name the folder of its run"):
        find_calibration(alone, True)
