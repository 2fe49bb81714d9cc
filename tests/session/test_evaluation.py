"""Whole runs on images of one's own whose test classes are known, partly known, or not."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from gpuopt.data import ImageCsv
from gpuopt.model import Classifier
from gpuopt.session.console import print_results
from gpuopt.session.evaluation import draw_figures, evaluate
from gpuopt.tta import TestTimeAugmentation

SMALL = ("global_batch_size=16", "micro_batch_size=16", "num_workers=0")
TESTS = 5


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def draw(path, shade, generator):
    pixels = generator.integers(0, 60, (24, 24, 3)) + shade
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    """A contest: train.csv with the values 7 and 30, a sample submission, classes with names."""
    root = tmp_path_factory.mktemp("contest")
    generator = np.random.default_rng(0)
    for name in ("train", "test", "folder/train/dark", "folder/train/light"):
        (root / name).mkdir(parents=True)
    rows = []
    for i in range(20):
        value = (7, 30)[i % 2]
        file = root / f"train/{i}.png"
        draw(file, (0, 190)[i % 2], generator)
        shutil.copy(file, root / f"folder/train/{('dark', 'light')[i % 2]}/{i}.png")
        rows.append(f"{i}.png,{value}")
    for i in range(TESTS):
        draw(root / f"test/t{i}.png", (0, 190)[i % 2], generator)
    shutil.copytree(root / "test", root / "folder/test")
    (root / "train.csv").write_text("\n".join(["image,label", *rows]))
    order = [f"t{i}.png" for i in (3, 1, 4, 0, 2)]
    (root / "sample.csv").write_text("\n".join(["image,label", *(f"{i},0" for i in order)]))
    (root / "classes.csv").write_text("target,name\n30,light\n7,dark\n")
    return root, order


def options(root):
    return (
        "data=image_csv",
        f"data.root={root}",
        "data.test_dir=test",
        "data.target_column=label",
        "data.validation_ratio=0.3",
        f"cache_dir={root / 'cache'}",
        *SMALL,
    )


@pytest.fixture(scope="module")
def unlabelled(train, contest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = ("data.test_csv=sample.csv", "data.classes_csv=classes.csv", "tta=legacy")
    return folder, train(folder, *options(contest[0]), *settings, pictures=True)


def test_without_test_classes_the_validation_images_are_scored(unlabelled):
    folder, results = unlabelled
    assert results["data"]["tested_on"] == "validation"
    assert results["data"]["scored_images"] == results["data"]["validation_images"] == 6
    assert results["data"]["test_images"] == TESTS
    assert 0 <= results["metrics"]["macro_f1_tta"]["value"] <= 1
    assert json.loads((folder / "results.json").read_text())["state"] == "finished"
    assert (folder / "confusion_matrix.png").is_file()


def test_the_test_images_are_predicted_in_the_contests_order_and_values(unlabelled, contest):
    folder, order = unlabelled[0], contest[1]
    rows = read(folder / "predictions.csv")
    assert [row["id"] for row in rows] == order
    assert {row["target"] for row in rows} == {""}
    value = {"light": "30", "dark": "7"}
    expected = [{"image": row["id"], "label": value[row["prediction"]]} for row in rows]
    assert read(folder / "submission.csv") == expected


def test_a_folder_of_test_images_alone_is_enough(train, contest, tmp_path):
    results = train(tmp_path, *options(contest[0]))
    assert results["data"]["tested_on"] == "validation"
    rows = read(tmp_path / "submission.csv")
    assert [row["image"] for row in rows] == [f"t{i}.png" for i in range(TESTS)]
    assert {row["label"] for row in rows} <= {"7", "30"}


def test_a_flat_test_folder_is_predicted_and_is_no_contest(train, contest, tmp_path):
    root = contest[0]
    settings = ("data=image_folder", f"data.root={root / 'folder'}", f"cache_dir={root / 'cache'}")
    results = train(tmp_path, *settings, *SMALL)
    assert results["data"]["tested_on"] == "validation"
    assert len(read(tmp_path / "predictions.csv")) == TESTS
    assert not (tmp_path / "submission.csv").exists()


def test_known_test_classes_are_scored_and_give_no_submission(train, contest, tmp_path):
    root = contest[0]
    lines = [f"t{i}.png,{(7, 30)[i % 2]}" for i in range(TESTS)]
    (root / "known.csv").write_text("\n".join(["image,label", *lines]))
    results = train(tmp_path, *options(root), "data.test_csv=known.csv")
    assert (results["data"]["tested_on"], results["data"]["scored_images"]) == ("test", TESTS)
    assert not (tmp_path / "submission.csv").exists()


@pytest.fixture
def model():
    return Classifier("test_vit", 2).eval()


def opened(root, **settings):
    data = ImageCsv(
        root=root,
        test_dir="test",
        target_column="label",
        image_size=32,
        micro_batch_size=8,
        global_batch_size=8,
        cache="off",
        **settings,
    )
    data.setup()
    return data


def evaluated(model, data, views=({},)):
    policy = TestTimeAugmentation(name="own", views=list(views))
    return evaluate(model, data, policy, precision="fp32", show_progress=False)


@pytest.mark.parametrize(
    ("micro", "evaluation", "views", "chunk"),
    [
        (8, None, 1, 8),
        (64, None, 1, 32),  # as predict on a CPU
        (64, None, 3, 32),
        (20, None, 3, 20),
        (8, 4, 1, 4),  # a batch is not filled up
        (4, 16, 3, 4),  # training took no more
    ],
)
def test_the_test_takes_no_more_at_once_than_training_or_predict(
    model, contest, monkeypatch, micro, evaluation, views, chunk
):
    taken = []
    monkeypatch.setattr(
        Classifier,
        "forward",
        lambda self, images: (taken.append(len(images)), torch.zeros(len(images), 2))[1],
    )
    data = opened(contest[0], evaluation_batch_size=evaluation)
    data.micro_batch_size = micro
    data._splits.test.targets[:] = [1, 0, 0, 1, 1]
    found = evaluated(model, data, [{}, {"rotate": 90}, {"rotate": 180}][:views])
    assert found.predictions.chunk_size == chunk
    assert set(taken) == {chunk}


def test_of_partly_known_test_classes_the_known_are_scored(model, contest):
    data = opened(contest[0])
    data._splits.test.targets[:] = [1, -1, 0, -1, 1]
    evaluation = evaluated(model, data)
    assert (evaluation.tested_on, evaluation.unlabelled) == ("test", None)
    assert evaluation.known.tolist() == [True, False, True, False, True]
    classes = evaluation.predictions.classes
    right = np.mean(classes[[0, 2, 4]] == [1, 0, 1])
    assert evaluation.tta_accuracy.value == pytest.approx(right)
    assert len(evaluation.test_predictions.ids) == TESTS
    figures = draw_figures(evaluation, data, "title")
    assert {"confusion_matrix", "samples"} <= figures.keys()


def test_pictures_come_from_the_images_that_were_scored(model, contest, monkeypatch):
    data = opened(contest[0])
    evaluation = evaluated(model, data)
    shown = []

    def remember(images, *rest, **options):
        shown.append(np.asarray(images))

    monkeypatch.setattr("gpuopt.session.evaluation.samples_figure", remember)
    draw_figures(evaluation, data, "title")
    every = data.val_dataloader().dataset.read(np.arange(data.validation_size)).numpy()
    assert shown
    assert all((every == image).all((1, 2, 3)).any() for part in shown for image in part)


def test_a_policy_without_the_unchanged_image_gets_it_from_a_pass_of_its_own(model, contest):
    data = opened(contest[0])
    plain, turned = evaluated(model, data), evaluated(model, data, ({"rotate": 90},))
    single = turned.predictions.single_view
    np.testing.assert_allclose(single, plain.predictions.probabilities, rtol=1e-5)
    assert not np.allclose(single, turned.predictions.probabilities)


def test_the_console_says_what_was_scored(model, contest):
    data = opened(contest[0])
    policy = TestTimeAugmentation()

    def printed(evaluation):
        stream = io.StringIO()
        print_results(Console(file=stream, width=120), evaluation, "mine", policy, contest[0])
        return stream.getvalue()

    text = printed(evaluated(model, data))
    assert "Validation on mine" in text
    assert f"no class of the {TESTS} test images is known" in text
    data._splits.test.targets[:] = [0, 1, 0, 1, 0]
    text = printed(evaluated(model, data))
    assert "Test on mine" in text
    assert "known" not in text
