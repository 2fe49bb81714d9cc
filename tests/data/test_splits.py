from pathlib import Path

import numpy as np
import pytest

from gpuopt.data import ArrayImages, DataSets, ImageSet, RejectedImage
from gpuopt.data.splits import check_rejected, open_splits
from gpuopt.errors import InputError

NAMES = ["cat", "dog"]


def image_set(prefix, targets, files=True, groups=None):
    ids = [f"{prefix}{i}" for i in range(len(targets))]
    images = np.zeros((len(targets), 3, 4, 4), np.uint8)
    store = [Path(name) for name in ids] if files else ArrayImages(images)
    return ImageSet(ids, np.array(targets), store, groups)


def opened(sets, bad=(), **options):
    def open_files(paths):
        names = [str(path) for path in paths]
        images = np.arange(len(paths), dtype=np.uint8).reshape(-1, 1, 1, 1)
        store = ArrayImages(np.broadcast_to(images, (len(paths), 3, 4, 4)))
        return store, {names.index(name): "truncated" for name in bad}

    settings = {"validation_ratio": 0.25, "max_rejected_ratio": 0.5, "seed": 0, **options}
    return open_splits(sets, open_files, **settings)


def test_rejected_files_leave_rows_and_ids_together():
    sets = DataSets(
        NAMES, image_set("t", [0, 0, 1, 1]), image_set("v", [0, 1]), image_set("x", [1, 0, 1])
    )
    splits = opened(sets, bad=["t1", "v0", "x1"])
    assert splits.rejected == [RejectedImage(name, "truncated") for name in ("t1", "v0", "x1")]
    expected = {
        "train": (["t0", "t2", "t3"], [0, 1, 1], [0, 2, 3]),
        "validation": (["v1"], [1], [5]),
        "test": (["x0", "x2"], [1, 1], [6, 8]),
    }
    for name, (ids, targets, rows) in expected.items():
        split = getattr(splits, name)
        assert list(split.ids) == ids
        assert split.targets.tolist() == targets
        assert split.images.read(split.rows)[:, 0, 0, 0].tolist() == rows
    assert splits.has_test_set


def test_validation_is_split_off_and_tested_on_without_a_test_set():
    splits = opened(DataSets(NAMES, image_set("t", [0] * 8 + [1] * 4)))
    assert sorted([*splits.train.ids, *splits.validation.ids]) == sorted(f"t{i}" for i in range(12))
    assert np.bincount(splits.validation.targets).tolist() == [2, 1]
    assert splits.test is splits.validation
    assert not splits.has_test_set


def test_stores_of_ready_images_are_taken_as_they_are():
    sets = DataSets(NAMES, image_set("t", [0, 1] * 4, files=False), test=image_set("x", [0, -1]))
    splits = opened(sets)
    assert splits.train.images is sets.train.images
    assert splits.test.rows.tolist() == [0, 1]


def test_fingerprint_depends_on_ids_and_targets():
    def fingerprint(targets, prefix="t"):
        return opened(DataSets(NAMES, image_set(prefix, targets))).fingerprint()

    base = fingerprint([0, 0, 1, 1])
    assert base == fingerprint([0, 0, 1, 1])
    assert len({base, fingerprint([0, 1, 0, 1]), fingerprint([0, 0, 1, 1], "u")}) == 3


@pytest.mark.parametrize(
    ("sets", "bad", "message"),
    [
        (DataSets(NAMES, image_set("t", [])), [], "no training images"),
        (DataSets(NAMES, image_set("t", [1, 1, 1])), [], "all training images are of class dog"),
        (DataSets(NAMES, image_set("t", [0, 0, 1])), [], "class dog has a single"),
        (DataSets(NAMES, image_set("t", [0, 0, 1, 1])), ["t2"], "class dog has a single"),
        (
            DataSets(NAMES, image_set("t", [0, 0, 1, 1]), image_set("v", [1])),
            ["v0"],
            "no validation images that can be read",
        ),
        (
            DataSets(NAMES, image_set("t", [0, 0, 1, 1]), test=image_set("x", [])),
            [],
            "no test images",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(sets, bad, message):
    with pytest.raises(InputError, match=message) as caught:
        opened(sets, bad)
    assert "\n" not in str(caught.value)


def test_too_many_unreadable_files_are_refused_with_examples():
    rejected = [RejectedImage(f"{i}.jpg", "truncated") for i in range(5)]
    check_rejected(rejected, 500, 0.01)
    with pytest.raises(InputError) as caught:
        check_rejected(rejected, 499, 0.01)
    message = str(caught.value)
    assert "5 of 499 images" in message
    assert "0.jpg: truncated, 1.jpg: truncated, 2.jpg: truncated, ..." in message
    assert "3.jpg" not in message
    assert "data.max_rejected_ratio" in message


TARGETS = [0, 1] * 15
GROUPS = [f"g{i // 3}" for i in range(30)]


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_folds_validate_every_image_once_and_train_on_the_others(groups):
    sets = DataSets(NAMES, image_set("t", TARGETS, groups=groups), test=image_set("x", [0, 1]))
    held_out = []
    for fold in range(3):
        splits = opened(sets, folds=3, fold=fold)
        assert not set(splits.train.ids) & set(splits.validation.ids)
        assert sorted([*splits.train.ids, *splits.validation.ids]) == sorted(sets.train.ids)
        assert list(splits.test.ids) == ["x0", "x1"]
        held_out += splits.validation.ids
        if groups:
            assert not set(splits.train.groups) & set(splits.validation.groups)
            expected = [GROUPS[int(name[1:])] for name in splits.validation.ids]
            assert splits.validation.groups == expected
    assert sorted(held_out) == sorted(sets.train.ids)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_an_unreadable_file_moves_no_other_image_to_another_fold(groups):
    sets = DataSets(NAMES, image_set("t", TARGETS, groups=groups))
    for fold in range(3):
        whole = set(opened(sets, folds=3, fold=fold).validation.ids)
        assert set(opened(sets, ["t4", "t0"], folds=3, fold=fold).validation.ids) == whole - {
            "t4",
            "t0",
        }


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.9])
def test_without_folds_groups_are_kept_together_too(ratio):
    sets = DataSets(NAMES, image_set("t", TARGETS, groups=GROUPS))
    splits = opened(sets, validation_ratio=ratio)
    assert not set(splits.train.groups) & set(splits.validation.groups)
    assert len(splits.validation) == pytest.approx(30 * min(ratio, 0.5), abs=3)


def test_validation_images_of_their_own_do_not_go_with_folds():
    sets = DataSets(NAMES, image_set("t", TARGETS), image_set("v", [0, 1]))
    with pytest.raises(InputError, match="validation images of its own, which folds=3"):
        opened(sets, folds=3, fold=0)
