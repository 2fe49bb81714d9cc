"""What is written of scores; whole runs are in test_worker.py and test_evaluation.py."""

import os

import pytest

from gpuopt.errors import InputError
from gpuopt.session.contest import contest_values, values_of
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


def test_only_a_list_with_test_images_has_values(tmp_path):
    node = {"_target_": "gpuopt.data.ImageCsv", "root": str(tmp_path), "test_dir": "test"}
    assert values_of(node, ["a", "b"]) == ["a", "b"]
    assert values_of({**node, "test_dir": None}, ["a", "b"]) is None
    assert values_of({**node, "_target_": "gpuopt.data.ImageFolder"}, ["a", "b"]) is None
    (tmp_path / "c.csv").write_text("target,name\n1,b\n2,a\n")
    assert values_of({**node, "classes_csv": "c.csv"}, ["a", "b"]) == ["2", "1"]
