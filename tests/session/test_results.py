"""What is written of scores; whole runs are in test_worker.py and test_evaluation.py."""

import os

import pytest

from gpuopt.errors import InputError
from gpuopt.session.contest import contest_of_settings, contest_values
from gpuopt.session.results import describe_machine, log_results


def test_the_machine_is_described_without_its_environment(monkeypatch):
    monkeypatch.setitem(os.environ, "SECRET", "canary-1234")
    described = describe_machine()
    assert described["versions"].keys() >= {"gpuopt", "torch", "lightning", "timm"}
    assert "canary-1234" not in str(described)


def test_other_loggers_get_nothing():
    log_results(None, {}, None, {}, 0)  # would fail on the first look at the empty scores


def test_values_follow_the_order_of_the_classes(tmp_path):
    file = tmp_path / "classes.csv"
    file.write_text("target,name\n30,b\n7,a\n9,c\n")
    assert contest_values(["a", "b"], file) == ["7", "30"]
    assert contest_values(["a", "b"], None) == ["a", "b"]
    with pytest.raises(InputError, match="'z'"):
        contest_values(["a", "z"], file)


@pytest.mark.parametrize("text", ["target\n7\n", "target,name\n7,a\n8,a\n", "target,name\n"])
def test_a_classes_csv_that_makes_no_sense_is_refused(tmp_path, text):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(InputError, match=r"classes\.csv"):
        contest_values(["a"], tmp_path / "classes.csv")


def test_only_a_list_with_test_images_is_a_contest(tmp_path):
    node = {"_target_": "gpuopt.data.ImageCsv", "root": str(tmp_path), "test_dir": "test"}
    assert contest_of_settings(node, ["a", "b"]).values == ["a", "b"]
    assert contest_of_settings({**node, "test_dir": None}, ["a", "b"]) is None
    other = {**node, "_target_": "gpuopt.data.ImageFolder"}
    assert contest_of_settings(other, ["a", "b"]) is None
    (tmp_path / "c.csv").write_text("target,name\n1,b\n2,a\n")
    assert contest_of_settings({**node, "classes_csv": "c.csv"}, ["a", "b"]).values == ["2", "1"]


def test_a_submission_has_the_columns_of_the_contests_list(tmp_path):
    def columns(**settings):
        node = {"_target_": "gpuopt.data.ImageCsv", "root": str(tmp_path), "test_dir": "test"}
        return contest_of_settings({**node, **settings}, ["a"]).columns

    (tmp_path / "train.csv").write_text("photo,kind\n1.jpg,a\n")
    (tmp_path / "sample.csv").write_text("image,kind\n2.jpg,a\n")
    (tmp_path / "ids.csv").write_text("image\n2.jpg\n")
    (tmp_path / "more.csv").write_text("image,size,kind\n2.jpg,7,a\n")
    assert columns() == ("id", "target")
    assert columns(train_csv="train.csv", target_column="kind") == ("photo", "kind")
    both = {"train_csv": "train.csv", "target_column": "label"}
    assert columns(**both, test_csv="sample.csv") == ("image", "kind")
    assert columns(**both, test_csv="ids.csv") == ("image", "label")
    assert columns(**both, test_csv="more.csv") == ("image", "label")
    assert columns(id_column="name", target_column="kind") == ("name", "kind")
    assert columns(train_csv="absent.csv") == ("id", "target")
