import pytest
import yaml

from gpuopt.errors import InputError
from gpuopt.finding.experiment_file import ExperimentFile

MARKER = ".gpuopt"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The shipped settings; the work goes on in an empty folder beside them."""
    folder, work = tmp_path / "shipped", tmp_path / "work"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment/none.yaml").write_text("experiment: none\n")
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


def place(shipped, name="mine", given=None):
    return ExperimentFile.place(name, shipped=shipped, marker=MARKER, given=given)


def test_a_new_folder_becomes_the_users_with_the_first_experiment(shipped, tmp_path):
    file = place(shipped)
    assert list((tmp_path / "work").iterdir()) == []  # nothing before there is something to say
    file.write({"model": "timm"}, {"micro_batch_size": 8, "model.name": "a"}, ["One\nline."])
    conf = tmp_path / "work/conf"
    assert (conf / MARKER).is_file()
    text = (conf / "experiment/mine.yaml").read_text()
    assert text.startswith("# @package _global_\n# One\\nline.\n")
    assert yaml.safe_load(text) == {
        "defaults": [{"override /model": "timm"}, "_self_"],
        "experiment": "mine",
        "micro_batch_size": 8,
        "model": {"name": "a"},
    }


def test_an_experiment_that_comes_meanwhile_stays(shipped, tmp_path):
    file = place(shipped)
    place(shipped).write({}, {"seed": 1}, [])
    with pytest.raises(InputError, match="exists and is not changed"):
        file.write({}, {"seed": 2}, [])
    written = tmp_path / "work/conf/experiment/mine.yaml"
    assert yaml.safe_load(written.read_text())["seed"] == 1


def test_a_folder_of_somebody_else_is_left_alone(shipped, tmp_path):
    conf = tmp_path / "work/conf"
    conf.mkdir()
    with pytest.raises(InputError, match=r"no folder of gpuopt's settings .*--config-dir"):
        place(shipped)
    (conf / MARKER).write_text("")
    place(shipped).write({}, {}, [])
    assert (conf / MARKER).read_text() == ""


def test_a_checkout_keeps_its_experiments_with_the_shipped_ones(shipped, tmp_path):
    (tmp_path / "work/conf").symlink_to(shipped)
    place(shipped).write({}, {}, [])
    assert (shipped / "experiment/mine.yaml").is_file()
    assert not (shipped / MARKER).exists()


def test_what_exists_already_is_not_overwritten(shipped, tmp_path):
    own = tmp_path / "own"
    with pytest.raises(InputError, match=r"none\.yaml exists"):
        place(shipped, "none", given=own)
    place(shipped, given=own).write({}, {}, [])
    assert not (own / MARKER).exists()  # --config-dir is read as it is
    with pytest.raises(InputError, match=r"mine\.yaml exists"):
        place(shipped, given=own)


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a.yaml", "1", "a b", "-a", "a" * 101])
def test_only_names_are_names(shipped, name):
    with pytest.raises(InputError, match="give a name of letters"):
        place(shipped, name)


def test_a_folder_that_cannot_be_written_is_one_line(shipped, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        place(shipped, given=tmp_path / "file").write({}, {}, [])
