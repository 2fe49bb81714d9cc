import os
import shutil

import pytest

from gpuopt.data import ImageFolder
from gpuopt.errors import InputError


def opened(root, settings, **options):
    data = ImageFolder(root, **{**settings, **options})
    data.setup()
    return data


def test_class_folders(class_folders, settings):
    data = opened(class_folders, settings, validation_ratio=0.25)
    assert data.class_names == ["cat", "dog", "owl"]
    assert (data.train_size, data.validation_size, data.test_size) == (27, 9, 9)
    assert not data.has_test_set
    assert data.test_ids == data.validation_ids
    assert set(data.train_ids) | set(data.validation_ids) == {
        f"{name}/{number:02d}.png" for name in ("cat", "dog", "owl") for number in range(12)
    }
    for batch in data.val_dataloader():
        names = [data.validation_ids[i].split("/")[0] for i in batch.ids]
        assert names == [data.class_names[t] for t in batch.targets]


def test_hidden_and_other_files_are_passed_over(class_folders, settings, make_image):
    (class_folders / "cat" / "notes.txt").write_text("x")
    (class_folders / "readme.md").write_text("x")
    make_image(class_folders / "cat" / ".hidden.png")
    make_image(class_folders / ".thumbnails" / "a.png")
    make_image(class_folders / "cat" / ".cache" / "a.png")
    make_image(class_folders / "cat" / "deeper" / "still" / "A.JPG")
    data = opened(class_folders, settings)
    assert data.class_names == ["cat", "dog", "owl"]
    ids = {*data.train_ids, *data.validation_ids}
    assert len(ids) == 37
    assert "cat/deeper/still/A.JPG" in ids


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_parts(tmp_path, class_folders, settings, make_image, name):
    root = tmp_path / "parts"
    for part in ("train", name, "test"):
        shutil.copytree(class_folders, root / part)
    data = opened(root, settings)
    assert (data.train_size, data.validation_size, data.test_size) == (36, 36, 36)
    assert data.has_test_set
    assert data.train_ids[0] == "train/cat/00.png"
    assert data.validation_ids[-1] == f"{name}/owl/11.png"
    assert data.test_ids[0] == "test/cat/00.png"
    assert data.has_test_targets


def test_parts_without_validation_and_unlabelled_test(tmp_path, class_folders, settings):
    root = tmp_path / "parts"
    shutil.copytree(class_folders, root / "train")
    shutil.copytree(class_folders / "owl", root / "test")
    data = opened(root, settings)
    assert data.train_size + data.validation_size == 36
    assert data.test_size == 12
    assert data.has_test_set
    assert not data.has_test_targets
    assert next(iter(data.test_dataloader())).targets.tolist() == [-1] * 4


def test_a_class_may_be_called_train(class_folders, settings):
    (class_folders / "owl").rename(class_folders / "train")
    data = opened(class_folders, settings)
    assert data.class_names == ["cat", "dog", "train"]


def test_test_root_elsewhere(tmp_path, class_folders, settings, make_image):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(class_folders / "dog", elsewhere / "dog")
    data = opened(class_folders, settings, test_root=str(elsewhere))
    assert data.test_size == 12
    assert data.test_ids[0] == "dog/00.png"
    assert next(iter(data.test_dataloader())).targets.tolist() == [1] * 4


def test_names_that_are_no_utf8(class_folders, settings, make_image):
    name = os.fsdecode(b"caf\xe9")
    make_image(class_folders / name / "a.png")
    make_image(class_folders / name / "b.png", seed=1)
    data = opened(class_folders, settings)
    assert data.class_names[0] == "caf\\xe9"
    assert len(data.fingerprint.encode()) == 64
    assert "caf\\xe9/a.png" in [*data.train_ids, *data.validation_ids]


def test_links_to_class_folders_are_followed(tmp_path, class_folders, settings):
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(class_folders / name)
    assert opened(tmp_path / "linked", settings).train_size > 0


def no_root(root):
    return {"root": None}


def missing(root):
    return {"root": root / "nowhere"}


def a_file(root):
    (root / "list.txt").touch()
    return {"root": root / "list.txt"}


def empty(root):
    (root / "empty").mkdir()
    return {"root": root / "empty"}


def flat(root):
    return {"root": root / "cat"}


def one_class(root):
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")
    return {"root": root}


def empty_class(root):
    (root / "cow").mkdir()
    return {"root": root}


def single_image(root):
    (root / "cow").mkdir()
    shutil.copy(root / "cat" / "00.png", root / "cow")
    return {"root": root}


def missing_test_root(root):
    return {"root": root, "test_root": root / "nowhere"}


def same_test_root(root):
    return {"root": root, "test_root": f"{root}/cat/.."}


def empty_test_root(root):
    (root.parent / "none").mkdir()
    return {"root": root, "test_root": root.parent / "none"}


def foreign_class(root):
    shutil.copytree(root / "cat", root.parent / "other" / "cats")
    return {"root": root, "test_root": root.parent / "other"}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (no_root, r"data\.root is not set"),
        (missing, r"there is no folder .*nowhere: set data\.root"),
        (a_file, "is a file: give the folder"),
        (empty, "holds no images"),
        (flat, r"images but no class folders: .*cat/1\.jpg"),
        (one_class, "all training images are of class owl"),
        (empty_class, "class folder .*cow holds no images"),
        (single_image, "class cow has a single training image"),
        (missing_test_root, r"there is no folder .*nowhere: set data\.test_root"),
        (same_test_root, "is the training folder"),
        (empty_test_root, "none holds no images"),
        (foreign_class, r"other/cats is no class .*\(nearest: cat\)"),
    ],
)
def test_faults_are_one_clear_line(class_folders, settings, case, message):
    with pytest.raises(InputError, match=message) as caught:
        opened(settings=settings, **case(class_folders))
    assert "\n" not in str(caught.value)


def test_a_few_unreadable_images_are_left_out_and_listed(class_folders, settings):
    (class_folders / "cat" / "03.png").write_bytes(b"")
    data = opened(class_folders, settings, max_rejected_ratio=0.03)
    (rejected,) = data.rejected
    assert rejected.path.endswith("cat/03.png")
    assert rejected.reason == "not an image"
    assert "cat/03.png" not in {*data.train_ids, *data.validation_ids}
    assert data.train_size + data.validation_size == 35
    with pytest.raises(InputError, match="1 of 36 images cannot be read"):
        opened(class_folders, settings, max_rejected_ratio=0.02)
