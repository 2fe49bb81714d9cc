import numpy as np
import pytest

from gpuopt.data import PredictionImages, decode_image, prediction_images
from gpuopt.errors import InputError


@pytest.fixture
def folder(tmp_path, make_image):
    for number in range(5):
        make_image(tmp_path / "scans" / f"{number}.png", seed=number)
    make_image(tmp_path / "scans" / "more" / "x.png", seed=9)
    make_image(tmp_path / "scans" / ".hidden.png")
    (tmp_path / "scans" / "notes.txt").touch()
    return tmp_path / "scans"


def images(folder, **options):
    options = {"cache_dir": folder.parent / "cache", "max_rejected_ratio": 0.2, **options}
    return PredictionImages(prediction_images(folder), 16, 4, **options)


def test_folder_is_searched_to_any_depth(folder):
    found = prediction_images(folder)
    assert [name for name, _ in found] == [*[f"{i}.png" for i in range(5)], "more/x.png"]
    assert all(path.is_file() for _, path in found)


def test_one_image(folder):
    assert prediction_images(folder / "3.png") == [("3.png", folder / "3.png")]


def test_csv_beside_the_images_or_elsewhere(folder, tmp_path):
    (folder / "list.csv").write_text("file,note\n4.png,a\nmore/x,b\n")
    assert prediction_images(folder / "list.csv") == [
        ("4.png", folder / "4.png"),
        ("more/x", folder / "more" / "x.png"),
    ]
    (tmp_path / "list.csv").write_text("note,file\na,4.png\n")
    found = prediction_images(tmp_path / "list.csv", folder, "file")
    assert found == [("4.png", folder / "4.png")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "there is no folder"),
        ("empty", "holds no images to predict on"),
        ("scans/notes.txt", "is a file"),
        ("no.csv", "there is no file"),
        ("bad.csv", "is no file inside"),
    ],
)
def test_nothing_to_predict_on(folder, tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("id\n../x.png\n")
    with pytest.raises(InputError, match=message):
        prediction_images(tmp_path / source)


@pytest.mark.parametrize("mode", ["auto", "off"])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_in_order_without_targets(folder, mode, workers):
    data = images(folder, cache=mode, num_workers=workers)
    assert len(data) == 6
    batches = list(data.loader())
    assert [len(batch.images) for batch in batches] == [4, 2]
    for batch in batches:
        assert batch.targets.tolist() == [-1] * len(batch.targets)
        for row, image in zip(batch.ids.tolist(), batch.images.numpy(), strict=True):
            assert np.array_equal(image, decode_image(folder / data.ids[row], 16))


def test_folders_of_classes_are_labels_where_every_image_has_one(folder):
    (folder / "less").mkdir()
    for image in folder.glob("*.png"):
        image.rename(folder / "less" / image.name)
    labelled = images(folder, class_names=["none", "more", "less"])
    targets = {
        labelled.ids[row]: target
        for batch in labelled.loader()
        for row, target in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True)
    }
    assert {name.partition("/")[0]: target for name, target in targets.items()} == {
        "more": 1,
        "less": 2,
    }
    for names in (["more"], ["0.png", "1.png"], []):
        unlabelled = images(folder, class_names=names)
        assert {int(t) for batch in unlabelled.loader() for t in batch.targets} == {-1}


def test_ranks_share_the_images(folder):
    data = images(folder)
    rows = [
        int(row)
        for rank in range(4)
        for batch in data.loader(rank, 4)
        for row, weight in zip(batch.ids, batch.weights, strict=True)
        if weight
    ]
    assert sorted(rows) == list(range(6))


def test_unreadable_images_are_listed_and_left_out(folder):
    (folder / "2.png").write_bytes(b"GIF89a")
    data = images(folder)
    assert data.ids == ["0.png", "1.png", "3.png", "4.png", "more/x.png"]
    assert [image.path for image in data.rejected] == [str(folder / "2.png")]
    with pytest.raises(InputError, match="1 of 6 images cannot be read"):
        images(folder, max_rejected_ratio=0.1)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the images"):
        images(folder, max_rejected_ratio=1.0)
