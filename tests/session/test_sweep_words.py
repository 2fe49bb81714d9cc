import re
from pathlib import Path

import pytest

from gpuopt.errors import InputError
from gpuopt.override_words import quoted
from gpuopt.session.sweep_folder import SweepFolder
from gpuopt.session.sweep_words import SWEEPS, is_sweep, prepare_sweep, without_folder


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(place, *words):
    folder = SweepFolder(Path(place))
    folder.start(words, [[word] for word in words])
    return folder


def test_a_new_sweep_gets_a_folder_of_its_own():
    words, folder = prepare_sweep(["-m", "seed=1,2"])
    _, second = prepare_sweep(["--multirun", "seed=1,2"])
    assert words == ["-m", "seed=1,2", f"hydra.sweep.dir='{folder}'"]
    assert folder.parent == SWEEPS
    assert folder.is_dir()
    assert second != folder


def test_a_named_folder_is_used_unless_it_holds_a_sweep():
    words, folder = prepare_sweep(["-m", "hydra.sweep.dir=mine", "seed=1,2"])
    assert folder == Path("mine")
    assert words == ["-m", "seed=1,2", "hydra.sweep.dir='mine'"]
    started("mine", "seed=1,2")
    with pytest.raises(InputError, match=r"holds a sweep already: add resume=mine"):
        prepare_sweep(["-m", "hydra.sweep.dir=mine", "seed=1,2"])


def test_a_file_or_a_forbidden_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        prepare_sweep(["-m", "hydra.sweep.dir=file"])
    with pytest.raises(InputError, match="cannot be made"):
        prepare_sweep(["-m", "hydra.sweep.dir=file/deeper"])


def test_resume_takes_the_stored_words():
    sweep = started("a b", "seed=1,2", "gpu=cpu")
    expected = ["-m", "seed=1,2", "gpu=cpu", f"hydra.sweep.dir={quoted(str(sweep.path))}"]
    assert prepare_sweep(["-m", "resume='a b'"]) == (expected, sweep.path)
    assert prepare_sweep(["-m", "seed=1,2", "gpu=cpu", "resume=a b"])[0] == expected
    with pytest.raises(InputError, match=r"leave out seed=3"):
        prepare_sweep(["-m", "seed=3", "resume=a b"])
    with pytest.raises(InputError, match="nowhere is not a sweep"):
        prepare_sweep(["-m", "resume=nowhere"])


def test_resume_true_finds_the_sweep_of_the_same_words():
    sweep = started(SWEEPS / "x", "seed=1,2")
    assert prepare_sweep(["-m", "seed=1,2", "resume=true"])[1] == sweep.path
    assert prepare_sweep(["-m", "resume=latest"])[1] == sweep.path
    with pytest.raises(InputError, match="no sweep of these settings"):
        prepare_sweep(["-m", "seed=1,3", "resume=true"])


def test_resume_false_is_a_new_sweep():
    started(SWEEPS / "x", "seed=1,2")
    words, folder = prepare_sweep(["-m", "seed=1,2", "resume=false"])
    assert folder.name != "x"
    assert words[1] == "seed=1,2"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_a_launcher_that_is_not_installed_names_its_extra(launcher, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("pip install 'gpuopt[sweep]'")):
        prepare_sweep(["-m", f"hydra/launcher={launcher}", "seed=1,2"])
    assert not list(tmp_path.iterdir())


def test_our_own_launcher_is_always_there():
    assert prepare_sweep(["-m", "hydra/launcher=processes", "seed=1,2"])


def test_what_asks_for_several_jobs():
    assert is_sweep(["a=1", "-m"])
    assert is_sweep(["--multirun"])
    assert not is_sweep(["a=1,2"])
    assert without_folder(["-m", "a=1", "hydra.sweep.dir=x", "hydra/launcher=joblib"]) == [
        "a=1",
        "hydra/launcher=joblib",
    ]
