import pytest

from gpuopt.data import ImageCsv
from gpuopt.errors import InputError

LABELS = ["2", "10", "2", "10", "2", "10", "2", "10"]


@pytest.fixture
def contest(tmp_path, make_image):
    """A contest's folder: train.csv, train/, test.csv, test/, meta.csv."""
    root = tmp_path / "contest"
    for part, count in (("train", 8), ("test", 5)):
        for number in range(count):
            make_image(root / part / f"{part}{number}.png", seed=number + 50 * (part == "test"))
    rows = [f"train{number}.png,{label}" for number, label in enumerate(LABELS)]
    write(root / "train.csv", "ID,target", *rows)
    write(root / "test.csv", "ID,target", *[f"test{number}.png,0" for number in range(5)])
    write(root / "meta.csv", "target,class_name", "10,invoice", "2,letter", "3,card")
    return root


def write(file, *lines):
    file.write_text("\n".join(lines) + "\n", "utf-8")


def opened(root, settings, **options):
    data = ImageCsv(root, **{**settings, **options})
    data.setup()
    return data


def targets_by_id(data):
    found = {}
    for ids, loader in (
        (data.train_ids, data.train_dataloader()),
        (data.validation_ids, data.val_dataloader()),
    ):
        for batch in loader:
            for row, target in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
                found[ids[row]] = data.class_names[target]
    return found


def test_classes_sort_as_numbers(contest, settings):
    data = opened(contest, settings)
    assert data.class_names == ["2", "10"]
    assert targets_by_id(data) == {f"train{i}.png": label for i, label in enumerate(LABELS)}
    assert not data.has_test_set


def test_equal_numbers_sort_by_their_text_on_every_rank(contest, settings):
    values = ["0" * zeros + "1" for zeros in range(10)]
    assert list(ImageCsv(contest, **settings)._classes(values)) == sorted(values)


def test_classes_sort_as_words(contest, settings):
    write(contest / "train.csv", "file,kind", *[f"train{i}.png,{k}" for i, k in enumerate("baba")])
    data = opened(contest, settings, target_column="kind")
    assert data.class_names == ["a", "b"]


def test_names_and_order_of_classes(contest, settings):
    data = opened(contest, settings, classes_csv="meta.csv")
    assert data.class_names == ["invoice", "letter", "card"]
    assert targets_by_id(data)["train0.png"] == "letter"


def test_test_set_with_placeholder_targets_is_unlabelled(contest, settings):
    data = opened(contest, settings, test_csv="test.csv", test_dir="test")
    assert data.test_ids == [f"test{number}.png" for number in range(5)]
    assert data.has_test_set
    assert not data.has_test_targets


def test_test_set_with_targets(contest, settings):
    labels = ["2", "10", "10", "2", "2"]
    rows = [f"test{number}.png,{label}" for number, label in enumerate(labels)]
    write(contest / "test.csv", "ID,target", *rows)
    data = opened(contest, settings, test_csv="test.csv", test_dir="test")
    assert data.has_test_targets
    (batch, _) = data.test_dataloader()
    assert batch.targets.tolist() == [0, 1, 1, 0]


def test_test_set_without_target_column_keeps_the_order_of_the_list(contest, settings):
    write(contest / "test.csv", "ID", "test3.png", "test1.png")
    data = opened(contest, settings, test_csv="test.csv", test_dir="test")
    assert data.test_ids == ["test3.png", "test1.png"]
    assert not data.has_test_targets


def test_a_home_folder_is_expanded_in_every_place(contest, settings, monkeypatch):
    monkeypatch.setenv("HOME", str(contest))
    places = {"train_csv": "~/train.csv", "train_dir": "~/train", "test_csv": "~/test.csv"}
    places |= {"test_dir": "~/test", "classes_csv": "~/meta.csv"}
    data = opened(None, settings, **places)
    assert data.has_test_set
    assert data.class_names == ["invoice", "letter", "card"]


def test_test_folder_without_a_list(contest, settings):
    data = opened(contest, settings, test_dir="test")
    assert data.test_ids == [f"test{number}.png" for number in range(5)]


def test_ids_without_ending_and_in_sub_folders(contest, settings):
    (contest / "train" / "deep").mkdir()
    (contest / "train" / "train0.png").rename(contest / "train" / "deep" / "train0.png")
    rows = [f"{'deep/' * (i == 0)}train{i},{label}" for i, label in enumerate(LABELS)]
    write(contest / "train.csv", "ID,target", *rows)
    assert "deep/train0" in targets_by_id(opened(contest, settings))


def test_columns_and_paths_can_be_named(contest, settings, monkeypatch):
    (contest / "train.csv").rename(contest / "list.csv")
    rows = [f"{label},x,train{i}.png" for i, label in enumerate(LABELS)]
    write(contest / "list.csv", "label,note,name", *rows)
    (contest / "train").rename(contest / "scans")
    monkeypatch.chdir(contest)
    data = opened(
        None,
        settings,
        train_csv="list.csv",
        train_dir=contest / "scans",
        id_column="name",
        target_column="label",
    )
    assert len(targets_by_id(data)) == 8


def test_a_broken_link_is_rejected_as_unreadable(contest, settings):
    (contest / "train" / "train0.png").unlink()
    (contest / "train" / "train0.png").symlink_to("nowhere.png")
    (rejected,) = opened(contest, settings, max_rejected_ratio=0.2).rejected
    assert rejected.reason == "no such file or directory"


@pytest.mark.parametrize(
    "name", ["../train.csv", "/etc/passwd", "a/../../b.png", "C:\\x.png", "..\\x.png", "."]
)
def test_hostile_ids_are_refused(contest, settings, name):
    rows = [f"train{i}.png,{label}" for i, label in enumerate(LABELS)]
    write(contest / "train.csv", "ID,target", *rows, f"{name},2")
    with pytest.raises(InputError, match="is no file inside"):
        opened(contest, settings)


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        ("ID,target", ["train0.png,2", "train1.png,"], {}, "data row 2: column 'target' is empty"),
        ("ID,target", ["train0.png,2", ",2"], {}, "data row 2: column 'ID' is empty"),
        ("ID,target", ["train0.png,2", "train0.png,2"], {}, "'train0.png' comes twice"),
        ("ID,label", ["train0.png,2"], {}, "no column 'target'.*label"),
        ("ID,target", ["train0.png,2"], {"id_column": "id"}, "no column 'id'"),
        ("ID,target", ["x.png,2", "y.png,2", "train0.png,2"], {}, r"2 of 3 files .*x\.png, y\.png"),
        ("ID,target", ["train0.png,2"], {"train_csv": "no.csv"}, r"there is no file .*no\.csv"),
        ("ID,target", ["train0.png,2"], {"train_dir": "no"}, r"set data\.train_dir"),
        ("ID,target", ["train0.png,2"], {"test_dir": "no"}, r"set data\.test_dir"),
        ("ID,target", ["train0.png,2"], {"test_csv": "test.csv"}, r"needs data\.test_dir"),
        (
            "ID,target",
            ["train0.png,7"],
            {"classes_csv": "meta.csv"},
            r"row 1: class '7' is unknown \(known: 10, 2, 3\)",
        ),
        ("ID,target", ["train0.png,2"], {"classes_csv": "one.csv"}, "one.csv has one column"),
    ],
)
def test_faults_are_one_clear_line(contest, settings, header, rows, options, message):
    write(contest / "train.csv", header, *rows)
    write(contest / "one.csv", "target", "2")
    with pytest.raises(InputError, match=message) as caught:
        opened(contest, settings, **options)
    assert "\n" not in str(caught.value)


def test_images_of_one_group_are_never_on_both_sides(contest, settings):
    rows = [f"train{i}.png,{label},p{i // 2}" for i, label in enumerate(LABELS)]
    write(contest / "train.csv", "ID,target,patient", *rows)
    data = opened(contest, settings, group_column="patient", folds=4, fold=1)
    assert data.validation_size == 2
    assert len(set(data.validation_groups)) == 1
    assert not set(data.validation_groups) & set(data.train_groups)
    assert opened(contest, settings).validation_groups is None
    with pytest.raises(InputError, match="no column 'person'"):
        opened(contest, settings, group_column="person")
