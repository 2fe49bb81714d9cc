"""Hostile names of classes, files and runs through the real commands.

Names come from other people's folders. A run must end, stay inside its folder, and give every
image back under an id that a program can match.
"""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.commands import Command

pytestmark = pytest.mark.slow

RED = "\x1b[31mred\x07"
CLASSES = (
    "plain",
    "<img src=x onerror=alert(1)>",
    "'\"`,;|quotes",
    "two\nlines\r\tand a tab",
    '=HYPERLINK("http:\\\\example","x")',
    "@SUM(1)",
    "-rf --no-preserve-root",
    "+1",
    "🦊 日本 \u202egnp.exe",
    RED,
    os.fsdecode(b"caf\xe9 \xff\xfe"),
    "x" * 240,
    "dots..",
    "%2f..%2fetc",
    "${oc.env:HOME} $(id) {a}[b]",
    "~",
    " spaces ",
    "null",
    "p_plain",
    "a\u0301 and \u00e1",
)
FILES = (
    "plain.png",
    "<script>alert('1')<\\script>.png",
    'a,b;"c"\'d.png',
    "new\nline\r.png",
    "=1+1.png",
    "-.png",
    "🦊\u202egnp.png",
    os.fsdecode(b"caf\xe9.png"),
    "y" * 240 + ".png",
    "%2f..%2f.png",
    "${x}.png",
    "*?.png",
)
RUN = "my run, [v=1] {x} $HOME 'q' \"d\" back\\slash a::b %20 *? ü🦊"
DATA = ("data=image_folder", "data.root=photos", "data.max_rejected_ratio=0.1", "cache_dir=cache")


def quoted(text):
    """Write a text in Hydra's grammar."""
    return "'" + text.replace("'", "\\'") + "'"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder with images, links that lead out and in circles, and a pipe."""
    folder = tmp_path_factory.mktemp("home")
    photos = folder / "photos"
    for label, name in enumerate(CLASSES):
        (photos / name).mkdir(parents=True)
        for number in range(3):
            draw(photos / name / f"{number}.png", 10 * label + number)
    for number, name in enumerate(FILES):
        draw(photos / "plain" / name, 1000 + number)
    draw(folder / "outside.png", 5000)
    (photos / "plain/link out.png").symlink_to(folder / "outside.png")
    (photos / "plain/loop.png").symlink_to("loop.png")
    (photos / "plain/circle").symlink_to("..")
    os.mkfifo(photos / RED / "pipe.png")
    return folder


@pytest.fixture(scope="module")
def images(home):
    """The id of every image that can be read, and the class folder that it lies in."""
    photos = home / "photos"
    paths = [path for path in photos.glob("*/*.png") if path.is_file()]
    return {shown(path.relative_to(photos)): shown(path.parent.name) for path in paths}


@pytest.fixture(scope="module")
def trained(home, tiny, warm):
    kept = [word for word in tiny if not word.startswith(("data=", "logger="))]
    words = (*kept, *DATA, "logger=tensorboard", f"run={quoted(RUN)}")
    return Command("gpuopt.train", *words, cwd=home, warm=warm, pictures=True).end()


def draw(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def shown(path):
    """Spell bytes that are not UTF-8, as ids are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def assert_well(done):
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # a name may not colour the terminal


def test_a_run_ends_and_stays_in_its_folder(home, trained):
    assert_well(trained)
    assert {path.name for path in home.iterdir()} == {"photos", "outside.png", "cache", RUN}
    results = json.loads((home / RUN / "results.json").read_text("utf-8"))
    assert results["state"] == "finished"
    rejected = {Path(line["path"]).name: line["reason"] for line in results["data"]["rejected"]}
    assert rejected.keys() == {"loop.png", "pipe.png"}
    assert rejected["pipe.png"] == "no regular file"


def test_every_row_of_its_predictions_names_one_image(home, trained, images):
    rows = rows_of(home / RUN / "predictions.csv")
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids) == sum(name in images for name in ids) > 0
    assert all(row["target"] == images[row["id"]] for row in rows)
    assert set(rows[0]) >= {f"p_{name}" for name in images.values()}
    assert {row["prediction"] for row in rows} <= set(images.values())


@pytest.mark.parametrize("name", ["confusion_matrix", "misclassified", "samples"])
def test_its_pictures_are_drawn(home, trained, name):
    with Image.open(home / RUN / f"{name}.png") as picture:
        picture.verify()
        assert min(picture.size) > 100


def test_its_events_are_readable(home, trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(home / RUN / "tensorboard"))
    events.Reload()
    assert "val/f1" in events.Tags()["scalars"]


def test_predict_gives_every_image_back_and_says_what_it_left_out(home, trained, images, warm):
    best = home / RUN / "checkpoints/best.ckpt"
    whole = best.read_bytes()
    best.unlink()  # `last` is the same file, and stays whole
    best.write_bytes(whole[:-1])
    output = "of [mine], $HOME.csv"
    words = (f"run={quoted(RUN)}", f"output={quoted(output)}", "gpu=cpu", "num_workers=0")
    done = Command("gpuopt.predict", *words, *DATA, cwd=home, warm=warm).end()
    best.write_bytes(whole)
    assert_well(done)
    assert "best.ckpt is damaged" in done.stderr
    assert sum(line.startswith("left out: ") for line in done.stdout.splitlines()) == 2
    rows = rows_of(home / output)
    assert sorted(row["id"] for row in rows) == sorted(images)


def test_it_can_be_resumed(home, trained, warm):
    words = (f"resume={quoted(RUN)}", "trainer.max_epochs=2")
    done = Command("gpuopt.train", *words, cwd=home, warm=warm).end()
    assert_well(done)
    assert "resuming from" in done.stderr
    results = json.loads((home / RUN / "results.json").read_text("utf-8"))
    assert results["training"]["epochs"] == 2
