import csv
import errno
import hashlib
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gpuopt.data.documents import Documents
from gpuopt.data.drawing import CLASS_NAMES, DocumentSet, folder
from gpuopt.errors import FaultError, InputError

SMALL = DocumentSet(seed=0, train_count=100, test_count=60, size_px=64)


@pytest.fixture
def make(settings):
    def build(**options):
        return Documents(drawn_size=64, train_count=100, test_count=60, **settings | options)

    return build


def read_csv(file):
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def contents(where):
    return {
        str(path.relative_to(where)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(where.rglob("*.*"))
        if path.suffix in (".jpg", ".csv")
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    where = tmp_path_factory.mktemp("set")
    SMALL.draw(where)
    return where


def test_it_loads_as_a_data_module(make):
    data = make()
    data.prepare_data()
    data.setup()
    assert data.class_names == list(CLASS_NAMES)
    assert (data.train_size + data.validation_size, data.test_size) == (100, 60)
    batch = next(iter(data.test_dataloader()))
    assert batch.images.shape[1:] == (3, 16, 16)
    known = [sample.target for sample in SMALL.samples()[100:]]
    assert batch.targets.tolist() == [known[row] for row in batch.ids.tolist()]


def test_files_and_tables_are_complete(drawn):
    rows = read_csv(drawn / "test.csv")
    assert list(rows[0]) == ["id", "target", "turn", "flip", "skew", "blur", "exposure", "noise"]
    for row, sample in zip(rows, SMALL.samples()[100:], strict=True):
        assert int(row["target"]) == sample.target
        assert float(row["noise"]) == sample.disturbance.noise
        with Image.open(drawn / "test" / row["id"]) as image:
            assert max(image.size) == 64
    assert len(list((drawn / "train").glob("*.jpg"))) == 100
    assert not list(drawn.glob("*/.*"))
    names = [row["class_name"] for row in read_csv(drawn / "classes.csv")]
    assert names == list(CLASS_NAMES)


def test_one_process_draws_the_same_bytes(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    SMALL.draw(tmp_path)
    assert contents(tmp_path) == contents(drawn)


def test_a_second_run_draws_nothing(drawn, monkeypatch):
    monkeypatch.setattr(folder, "draw_sample", lambda *_: pytest.fail("drawn again"))
    SMALL.draw(drawn)


@pytest.mark.parametrize("lost", ["test/00003.jpg", "test.csv", "drawn.json"])
def test_what_is_lost_is_drawn_again(drawn, tmp_path, lost):
    SMALL.draw(tmp_path)
    (tmp_path / lost).unlink()
    SMALL.draw(tmp_path)
    assert contents(tmp_path) == contents(drawn)


def test_an_interrupted_drawing_goes_on_where_it_stopped(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    honest = folder.draw_sample

    def full_disk(sample, size_px):
        if sample.split == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(sample, size_px)

    monkeypatch.setattr(folder, "draw_sample", full_disk)
    with pytest.raises(FaultError, match="do not fit in"):
        SMALL.draw(tmp_path)
    (tmp_path / "test" / ".00007.jpg.abc.tmp").write_bytes(b"half")
    drawn_later = []

    def counted(sample, size_px):
        drawn_later.append(sample)
        return honest(sample, size_px)

    monkeypatch.setattr(folder, "draw_sample", counted)
    SMALL.draw(tmp_path)
    assert contents(tmp_path) == contents(drawn)
    assert 60 <= len(drawn_later) < 100
    assert not list(tmp_path.glob("*/.*"))


def test_a_failure_in_a_process_of_its_own_is_told_in_one_line(tmp_path, monkeypatch):
    def no_room(sample, size_px):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "draw_sample", no_room)
    with pytest.raises(FaultError, match="goes on where it stopped") as caught:
        SMALL.draw(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, make):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(InputError, match="set cache_dir"):
        make(cache_dir=blocked).setup()


def test_each_set_has_a_folder_of_its_own():
    usual = DocumentSet(0, 1570, 3140, 384)
    assert usual.folder_name == "documents-v1-384-0"
    others = [DocumentSet(1, 1570, 3140, 384), DocumentSet(0, 1570, 3140, 512), SMALL]
    assert len({other.folder_name for other in (usual, *others)}) == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("drawn_size", 63),
        ("drawn_size", 384.0),
        ("train_count", 99),
        ("train_count", True),
        ("test_count", 0),
        ("test_count", 100_000),
        ("drawing_seed", -1),
        ("drawing_seed", 1 << 64),
    ],
)
def test_absurd_numbers_are_refused(settings, key, value):
    with pytest.raises(InputError, match=f"data.{key}={value} is not a whole number from"):
        Documents(**{key: value}, **settings)


def test_the_greatest_seed_and_size_can_be_drawn(tmp_path):
    extreme = DocumentSet((1 << 64) - 1, 100, 1, 64)
    extreme.draw(tmp_path)
    assert len(list((tmp_path / "test").glob("*.jpg"))) == 1


def test_conditions_follow_the_test_samples_that_can_be_read(make, settings):
    data = make(max_rejected_ratio=0.1)
    where = settings["cache_dir"] / data.documents.folder_name
    SMALL.draw(where)
    (where / "test" / "00004.jpg").write_bytes(b"no image")
    assert data.test_size == 59
    listed = [s.disturbance for s in SMALL.samples()[100:] if s.file_name != "00004.jpg"]
    conditions = data.test_conditions
    for column, values in enumerate(conditions.values()):
        assert values.tolist() == [how[column] for how in listed]
    groups = data.condition_groups()
    assert {len(mask) for mask in groups.values()} == {59}
    assert (groups["turned"] == ~groups["upright"]).all()
    assert groups["clean"].sum() == sum(not any(how) for how in listed) > 0
    for name, field in (("flipped", "flip"), ("blurred", "blur"), ("noisy", "noise")):
        assert (groups[name] == (conditions[field] != 0)).all()
        assert not (groups[name] & groups["clean"]).any()
    exposed = np.array([how.exposure for how in listed])
    assert (groups["badly exposed"] == (exposed != 0)).all()


def test_the_configuration_fits_the_class():
    file = Path(__file__).parents[2] / "conf" / "data" / "documents.yaml"
    options = yaml.safe_load(file.read_text("utf-8"))
    assert options.pop("_target_") == "gpuopt.data.Documents"
    assert options.pop("augmentation")["_target_"] == "gpuopt.data.Augmentation"
    parameters = inspect.signature(Documents).parameters
    for key in ("drawn_size", "train_count", "test_count", "drawing_seed"):
        assert options[key] == parameters[key].default
    assert set(options) <= set(parameters)
    assert options["quickstart_image_size"] == 128
