import pytest
import yaml

from gpuopt.config import compose_settings
from gpuopt.endings import REFUSALS, ending_clearly, explain
from gpuopt.errors import FaultError, InputError, PreemptedError, TargetNotMetError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (FaultError("x"), 3),
        (TargetNotMetError("x"), 4),
        (PreemptedError("x"), 75),
        (KeyboardInterrupt(), 75),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code, capsys):
    with pytest.raises(SystemExit) as caught, ending_clearly("train", debug=False):
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("gpuopt train: ")


def test_an_error_of_a_loader_process_is_told_by_its_own_last_line(capsys):
    told = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent "
    with pytest.raises(SystemExit) as caught, ending_clearly("train", debug=False):
        raise RuntimeError(f"{told}call last):\n  File x\nKeyError: 'label'\n")
    assert caught.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "gpuopt train: internal error: KeyError: 'label' (in a loader process)"


@pytest.fixture
def own_conf(tmp_path, monkeypatch):
    """A copy of the settings in the working folder, whose files win."""
    from gpuopt.config import copy_conf

    monkeypatch.chdir(tmp_path)
    copy_conf(tmp_path / "conf")
    return tmp_path / "conf"


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("gpu/rtx3060.yaml", "nmae: x", ["gpu/rtx3060.yaml", "gpu.nmae is no setting"]),
        ("trainer/default.yaml", "max_epoch: 3", ["trainer.max_epoch is", "nearest: max_epochs"]),
        ("trainer/default.yaml", "max_steps: many", ["trainer/default.yaml: trainer.max_steps"]),
        ("gpu/rtx3060.yaml", "trainer: [", ["gpu/rtx3060.yaml, line ", "mend the file"]),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_file_and_key(own_conf, name, line, words):
    path = own_conf / name
    kept = [old for old in path.read_text().splitlines() if not old.startswith(line[:9])]
    path.write_text("\n".join([*kept, line, ""]))
    with pytest.raises(REFUSALS) as caught:
        compose_settings("train", ["gpu=rtx3060"])
    said = explain(caught.value)
    assert all(word in said for word in words), said


def test_a_broken_file_is_bad_input(capsys):
    with pytest.raises(SystemExit) as caught, ending_clearly("train", debug=False):
        yaml.safe_load("a: [")
    assert caught.value.code == 2
    assert "this is no YAML" in capsys.readouterr().err
