import hashlib
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

import gpuopt.data
from gpuopt.data.drawing import (
    CLASS_NAMES,
    CLEAN,
    GENERATOR_VERSION,
    SAMPLES_PER_CLASS,
    Dice,
    Disturbance,
    DocumentSet,
    disturb,
    draw_document,
    draw_sample,
    list_samples,
)
from gpuopt.data.drawing.canvas import Box, Canvas, text_width
from gpuopt.data.drawing.disturbance import exposure_curve

# First 16 digits of the SHA-256 of the pixels with Pillow 12 or later, and with Pillow 11, whose
# FreeType sets a few dots elsewhere. Whoever changes one raises GENERATOR_VERSION.
PIXELS = {
    ("train", 0): ("78a9bd34801f149a", "2addc6ac173ac2cd"),
    ("train", 1): ("88109695e063d2d9", "ec037309ec074151"),
    ("train", 5): ("8f98ef7e3b0d8b47", "8f98ef7e3b0d8b47"),
    ("train", 8): ("b3f79e2f8c2f2118", "b3f79e2f8c2f2118"),
    ("train", 21): ("d35723b4e475c016", "eb9e42cefbd20c0f"),
    ("train", 34): ("e9595ff48c0d8664", "8a1e07aa3761713b"),
    ("test", 0): ("1bd7e60cdc5b1458", "df6ab10232677ea8"),
    ("test", 1): ("a3383c8efdc8a6da", "a3383c8efdc8a6da"),
    ("test", 2): ("bf3a1b1e6378accd", "88f7215ca755264a"),
    ("test", 5): ("2ac8a3336c3a3457", "2ac8a3336c3a3457"),
    ("test", 13): ("bc2251da60a0dbd6", "7e60967852020a46"),
    ("test", 55): ("c9057f0ad602a784", "c6a9d136114f5eed"),
}
TABLES = {
    "train.csv": "e4d2c7dbd0b4bf01",
    "test.csv": "e68069803ab10e39",
}


def digest(image):
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def test_samples():
    return list_samples(0, "test", 400)


@pytest.mark.parametrize(("split", "index"), PIXELS)
def test_the_pixels_of_this_version_are_fixed(split, index):
    expected = PIXELS[split, index][0 if int(PIL.__version__.split(".")[0]) >= 12 else 1]
    assert digest(draw_sample(list_samples(0, split, index + 1)[index], 384)) == expected


@pytest.mark.parametrize("name", TABLES)
def test_the_labels_and_disturbances_of_this_version_are_fixed(name):
    table = DocumentSet(seed=0, train_count=1570, test_count=3140, size_px=384).tables()[name]
    assert hashlib.sha256(table.encode()).hexdigest()[:16] == TABLES[name]


def test_the_pinned_images_are_of_this_version():
    assert GENERATOR_VERSION == 1
    assert len(PIXELS) == 12


def test_drawing_needs_no_torch():
    # A stand-in for gpuopt.data itself, which imports torch for its other modules.
    program = (
        "import sys, types\n"
        "package = types.ModuleType('gpuopt.data')\n"
        f"package.__path__ = {list(gpuopt.data.__path__)!r}\n"
        "sys.modules['gpuopt.data'] = package\n"
        "import gpuopt.data.drawing\n"
        "sys.exit(' '.join({'torch', 'lightning', 'hydra'} & set(sys.modules)) or 0)\n"
    )
    folder = Path(gpuopt.data.__path__[0]).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_a_whole_set_has_the_contests_class_frequencies():
    train = [sample.target for sample in list_samples(0, "train", 1570)]
    test = [sample.target for sample in list_samples(0, "test", 3140)]
    assert np.bincount(train).tolist() == list(SAMPLES_PER_CLASS)
    assert np.bincount(test).tolist() == [2 * count for count in SAMPLES_PER_CLASS]
    assert (min(SAMPLES_PER_CLASS), max(SAMPLES_PER_CLASS), len(CLASS_NAMES)) == (46, 100, 17)


@pytest.mark.parametrize("count", [100, 333, 1570, 1700])
def test_every_beginning_of_the_list_is_balanced_and_the_same(count):
    part = list_samples(3, "train", count)
    assert part == list_samples(3, "train", 2000)[:count]
    expected = np.array(SAMPLES_PER_CLASS) * count / sum(SAMPLES_PER_CLASS)
    found = np.bincount([sample.target for sample in part], minlength=17)
    assert np.abs(found - expected).max() <= 1.0 + 1e-9
    assert found.min() >= 2


def test_seeds_and_splits_differ():
    drawn = {
        digest(draw_document(4, Dice(seed, 2, split, index), 64)[0])
        for seed in (0, 1)
        for split in (0, 1)
        for index in (0, 1)
    }
    assert len(drawn) == 8
    assert list_samples(0, "test", 200) != list_samples(1, "test", 200)


def test_an_image_does_not_depend_on_what_was_drawn_before(test_samples):
    forwards = [digest(draw_sample(sample, 96)) for sample in test_samples[:12]]
    backwards = [digest(draw_sample(sample, 96)) for sample in reversed(test_samples[:12])]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize("target", range(17), ids=CLASS_NAMES)
def test_a_class_draws_the_same_document_at_any_size(target):
    for index in range(6):
        small, ground = draw_document(target, Dice(5, index=index), 300)
        large, same_ground = draw_document(target, Dice(5, index=index), 600)
        other, _ = draw_document(target, Dice(5, index=index + 50), 600)
        assert (max(small.size), max(large.size), ground) == (300, 600, same_ground)
        assert likeness(small, large) > 0.85 > likeness(small, other)


def likeness(first, second):
    grey = [np.asarray(image.convert("L").resize((24, 24)), float) for image in (first, second)]
    return np.corrcoef(grey[0].ravel(), grey[1].ravel())[0, 1]


def test_the_frame_is_the_same_for_every_class():
    for index in range(8):
        frames = {draw_document(target, Dice(6, index=index), 64)[0].size for target in range(17)}
        assert len(frames) == 1


def test_neither_the_frame_nor_the_size_of_the_file_gives_the_class_away(tmp_path):
    facts, targets = [], []
    for sample in list_samples(0, "train", 500):
        image = draw_sample(sample, 384)
        image.save(tmp_path / "one.jpg", quality=88)
        size_bytes = (tmp_path / "one.jpg").stat().st_size
        facts.append((image.width, image.height, size_bytes, size_bytes / image.width))
        targets.append(sample.target)

    def accuracy(columns):
        forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
        return cross_val_score(forest, np.array(facts)[:, columns], targets, cv=4).mean()

    assert accuracy([0, 1]) < 0.13  # one in sixteen is chance
    assert accuracy([0, 1, 2, 3]) < 0.33


def test_training_images_are_clean_and_test_images_are_disturbed_as_listed(test_samples):
    assert {sample.disturbance for sample in list_samples(0, "train", 200)} == {CLEAN}
    for sample in test_samples[:60]:
        clean = np.asarray(draw_sample(replace(sample, disturbance=CLEAN), 64))
        how = sample.disturbance
        image = np.asarray(draw_sample(sample, 64))
        assert np.array_equal(image, clean) == (how == CLEAN)
        if how.turn % 180 == 0:
            assert image.shape == clean.shape
        else:
            assert image.shape == (clean.shape[1], clean.shape[0], 3)


def test_every_disturbance_occurs_often_enough_to_be_reported():
    table = np.array([sample.disturbance for sample in list_samples(0, "test", 3140)])
    assert 150 < (table == 0).all(axis=1).sum() < 500
    shares = dict(zip(Disturbance._fields, (table != 0).mean(axis=0), strict=True))
    assert all(0.1 < share < 0.75 for share in shares.values()), shares
    assert set(table[:, 0]) == {0, 90, 180, 270}
    assert (table[:, 4] < -0.3).sum() > 300
    assert (table[:, 4] > 0.3).sum() > 300


def test_turns_and_flips_are_exact():
    image, ground = draw_document(0, Dice(1), 64)
    pixels, dice = np.asarray(image), Dice(1)
    for turn in (90, 180, 270):
        turned = np.asarray(disturb(image, Disturbance(turn=turn), dice, ground))
        assert np.array_equal(turned, np.rot90(pixels, turn // 90))
    both = np.asarray(disturb(image, Disturbance(turn=90, flip=1), dice, ground))
    assert np.array_equal(both, np.rot90(pixels)[:, ::-1])


def test_a_skew_keeps_the_frame_and_turns_anticlockwise():
    canvas = Canvas(101, 101, (0, 0, 0), (255, 255, 255))
    canvas.fill(Box(780, 460, 900, 540), (255, 255, 255))  # at the right of the middle
    skewed = disturb(canvas.image, Disturbance(skew=20.0), Dice(0), (9, 9, 9))
    assert skewed.size == (101, 101)
    rows, columns = np.nonzero(np.asarray(skewed)[..., 0] > 128)
    angle = math.degrees(math.atan2(50 - rows.mean(), columns.mean() - 50))
    assert angle == pytest.approx(20, abs=2)
    assert skewed.getpixel((0, 0)) == (9, 9, 9)


def test_exposure_noise_and_blur_are_as_strong_as_recorded():
    assert exposure_curve(0.0) == list(range(256))
    for stops in (-1.2, -0.4, 0.5, 1.5):
        curve = exposure_curve(stops)
        assert curve == sorted(curve)
        assert (curve[0], max(curve) <= 255) == (0, True)
        assert (curve[128] > 128) == (stops > 0)
    assert exposure_curve(-1.0)[200] == 100
    flat = Canvas(200, 200, (128, 128, 128), (0, 0, 0)).image
    noisy = np.asarray(disturb(flat, Disturbance(noise=20.0), Dice(0), (0, 0, 0)), float)
    assert noisy.std() == pytest.approx(20, rel=0.03)
    image, ground = draw_document(6, Dice(2), 200)
    sharpness = [
        np.abs(
            np.diff(np.asarray(disturb(image, Disturbance(blur=b), Dice(0), ground), float), axis=1)
        )
        for b in (0.0, 1.5, 3.5)
    ]
    assert sharpness[0].mean() > sharpness[1].mean() > sharpness[2].mean()


@pytest.mark.parametrize("align", ["l", "m", "r"])
@pytest.mark.parametrize("bold", [False, True])
def test_text_stays_in_its_box(align, bold):
    canvas = Canvas(400, 300, (255, 255, 255), (0, 0, 0))
    box = Box(250, 250, 620, 290)
    canvas.text(box, "A line that is much too long for it", 90, align=align, bold=bold)
    rows, columns = np.nonzero(np.asarray(canvas.image)[..., 0] < 128)
    assert len(rows) > 50
    scale = 0.4
    assert columns.min() >= box.left * scale - 1
    assert columns.max() <= box.right * scale + 2
    assert rows.min() >= box.top * scale - 1
    assert rows.max() <= box.bottom * scale + 1


def test_text_width_is_that_of_the_drawn_text():
    canvas = Canvas(1000, 100, (255, 255, 255), (0, 0, 0))
    canvas.text(Box(0, 0, 1000, 100), "MEDICAL OPINION 123", 60)
    columns = np.nonzero(np.asarray(canvas.image)[..., 0] < 128)[1]
    assert columns.max() == pytest.approx(text_width("MEDICAL OPINION 123", 60), rel=0.04)


def test_boxes_are_cut_without_gaps():
    box = Box(10, 20, 110, 220)
    rows, columns = box.rows(1, 2.0, 1), box.columns(3.0, 1)
    assert [row.top for row in rows] + [rows[-1].bottom] == [20, 70, 170, 220]
    assert (columns[0].right, columns[1].left, columns[1].right) == (85, 85, 110)
    assert box.part(0, 0.5, 0.5, 1).inset(5) == Box(15, 125, 55, 215)


def test_dice_are_fair():
    dice = Dice(11)
    numbers = [dice.integer(2, 5) for _ in range(4000)]
    assert set(numbers) == {2, 3, 4, 5}
    assert np.bincount(numbers)[2:].min() > 900
    picks = [dice.weighted({"a": 3.0, "b": 1.0, "never": 0.0}) for _ in range(4000)]
    assert picks.count("a") / 4000 == pytest.approx(0.75, abs=0.03)
    assert "never" not in picks
    assert np.std([dice.normal(5) for _ in range(4000)]) == pytest.approx(5, rel=0.05)
    assert {len(dice.digits(6)) for _ in range(200)} == {6}
