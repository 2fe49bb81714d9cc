import os
from pathlib import Path

import pytest

from gpuopt.errors import InputError
from gpuopt.prediction_folder import folder_of_prediction
from gpuopt.run import choose_folder

ROOT = Path("outputs/predict")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chosen(output=None, resume=None):
    config = {"run": "latest", "output": output, "resume": resume}
    return folder_of_prediction(config, ROOT)


def cut_short(place, age_s=0):
    part = Path(place)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"")
    past = part.parent.stat().st_mtime - age_s
    os.utime(part.parent, (past, past))


@pytest.mark.parametrize("resume", [None, False])
def test_it_begins_in_a_new_folder_or_beside_its_output(resume):
    assert chosen(resume=resume) is None
    assert chosen("p.csv", resume) == Path()
    cut_short(ROOT / "old/predictions.csv.part")
    assert chosen(resume=resume) is None
    config = {"run": "latest", "output": None, "resume": resume}
    assert choose_folder(config, ROOT / "now") == ROOT / "now"
    assert (ROOT / "now").is_dir()


def test_an_output_that_was_cut_short_is_only_gone_on_with_when_asked():
    cut_short("p.csv.part")
    with pytest.raises(InputError, match=r"output=p.csv was cut short: resume=true goes on"):
        chosen("p.csv")
    assert chosen("p.csv", True) == Path()
    assert chosen("p.csv", ".") == Path()
    with pytest.raises(InputError, match=r"resume=there and output=p.csv name two folders"):
        chosen("p.csv", "there")
    Path("p.csv").touch()  # what is written beside it may be missing
    assert chosen("p.csv", True) == Path()
    with pytest.raises(InputError, match=r"output=p.csv exists"):
        chosen("p.csv")
    Path("p.csv.part").unlink()
    with pytest.raises(InputError, match=r"output=p.csv exists"):
        chosen("p.csv", True)


def test_true_is_the_latest_that_was_cut_short():
    cut_short(ROOT / "older/predictions.csv.part", age_s=200)
    cut_short(ROOT / "later/predictions.csv.part2", age_s=100)
    (ROOT / "complete").mkdir()
    (ROOT / "complete/predictions.csv").touch()
    (ROOT / "other").mkdir()
    (ROOT / "other/predictions.csv.party").touch()
    (ROOT / "other/predictions.csv.part.old").touch()
    assert chosen(resume=True) == ROOT / "later"
    assert chosen(resume=str(ROOT / "older")) == ROOT / "older"


def test_nothing_to_go_on_with_is_bad_input():
    with pytest.raises(InputError, match=r"resume=true: no prediction under outputs/predict was"):
        chosen(resume=True)
    with pytest.raises(InputError, match=r"p.csv was not cut short: leave resume out"):
        chosen("p.csv", True)
    with pytest.raises(InputError, match=r"nowhere/predictions.csv was not cut short"):
        chosen(resume="nowhere")
    Path("done").mkdir()
    Path("done/predictions.csv").touch()
    with pytest.raises(InputError, match="that prediction is complete"):
        chosen(resume="done")
