import os
import time
from pathlib import Path

import pytest

from gpuopt.errors import InputError
from gpuopt.run import (
    RunFolder,
    choose_folder,
    config_digest,
    fold_folder,
    has_weights,
    is_fold,
    latest_run,
    resumed_settings,
)

CONFIG = {
    "model": {"name": "a", "learning_rate": 0.1},
    "trainer": {"max_epochs": 2},
    "micro_batch_size": 8,
    "global_batch_size": 32,
    "run": None,
    "resume": None,
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stored(name, config=CONFIG, age_s=0):
    run = RunFolder(Path(name))
    run.write_config(config)
    moment = time.time() - age_s
    os.utime(run.path / "config.yaml", (moment, moment))
    return run


def test_a_new_run_gets_a_folder_of_its_own_even_in_the_same_second(tmp_path):
    fresh = tmp_path / "outputs/train/now"
    names = [choose_folder(CONFIG, fresh).name for _ in range(3)]
    assert names == ["now", "now_2", "now_3"]


def test_a_named_folder_must_be_empty(tmp_path):
    assert choose_folder({**CONFIG, "run": "mine"}, tmp_path / "x").name == "mine"
    stored("mine")
    with pytest.raises(InputError, match="add resume=true"):
        choose_folder({**CONFIG, "run": "mine"}, tmp_path / "x")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        choose_folder({**CONFIG, "run": "file"}, tmp_path / "x")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/train.log").write_text("the user's own")
    with pytest.raises(InputError, match="holds other files"):
        choose_folder({**CONFIG, "run": "notes"}, tmp_path / "x")
    assert (tmp_path / "notes/train.log").read_text() == "the user's own"


def test_a_run_killed_before_it_stored_its_settings_can_be_named_again(tmp_path):
    with RunFolder(tmp_path / "mine").lock:
        pass
    assert choose_folder({**CONFIG, "run": str(tmp_path / "mine")}, tmp_path / "x").name == "mine"


def test_a_folder_that_cannot_be_made_is_said_before_anything_else(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        choose_folder({**CONFIG, "run": "file/run"}, tmp_path / "x")
    with pytest.raises(InputError, match="cannot be made"):
        choose_folder(CONFIG, tmp_path / "file/now")


def test_contradictions_between_run_and_resume_are_refused(tmp_path):
    stored("a")
    with pytest.raises(InputError, match="add resume=true"):
        choose_folder({**CONFIG, "run": "latest"}, tmp_path / "x")
    with pytest.raises(InputError, match="two folders"):
        choose_folder({**CONFIG, "run": "b", "resume": "a"}, tmp_path / "x")
    assert choose_folder({**CONFIG, "run": "a", "resume": True}, tmp_path / "x").name == "a"


def test_resume_true_finds_the_latest_run_of_the_same_configuration(tmp_path):
    stored("outputs/train/old", age_s=100)
    wanted = stored("outputs/train/new", age_s=50)
    stored("outputs/train/other", {**CONFIG, "global_batch_size": 64})
    found = choose_folder({**CONFIG, "resume": True, "micro_batch_size": 16}, tmp_path / "x")
    assert found.absolute() == wanted.path


def test_resume_of_nothing_is_said(tmp_path):
    with pytest.raises(InputError, match="no run under"):
        choose_folder({**CONFIG, "resume": True}, tmp_path / "x")
    with pytest.raises(InputError, match="not a run folder"):
        choose_folder({**CONFIG, "resume": "nowhere"}, tmp_path / "x")


def test_resume_needs_no_setting_repeated(tmp_path):
    """Defaults of this call that differ from the stored run do not count."""
    run = stored("a", {**CONFIG, "model": {"name": "mine", "learning_rate": 0.5}})
    assert choose_folder({**CONFIG, "resume": "a"}, tmp_path / "x", ["resume"]).name == "a"
    settings = resumed_settings({**CONFIG, "resume": "a"}, run.path, ["resume"])
    assert settings["model"] == {"name": "mine", "learning_rate": 0.5}


def test_resume_refuses_what_was_typed_and_differs(tmp_path):
    stored("a")
    changed = {**CONFIG, "resume": "a", "model": {"name": "a", "learning_rate": 0.2}}
    for typed in ("model.learning_rate", "model", "mode"):
        with pytest.raises(InputError, match=r"model.learning_rate: 0.1 -> 0.2"):
            choose_folder(changed, tmp_path / "x", [typed, "resume"])


def test_another_accumulation_would_change_the_global_batch(tmp_path):
    run = stored("a")
    changed = {**CONFIG, "global_batch_size": 64}
    with pytest.raises(InputError, match="global_batch_size: 32 -> 64"):
        resumed_settings(changed, run.path, ["micro_batch_size", "accumulate_grad_batches"])


def test_what_belongs_to_the_machine_may_change_when_it_is_typed(tmp_path):
    run = stored("a")
    changed = {**CONFIG, "micro_batch_size": 4, "trainer": {"max_epochs": 9}}
    typed = resumed_settings(changed, run.path, ["micro_batch_size", "trainer.max_epochs"])
    assert (typed["micro_batch_size"], typed["trainer"]["max_epochs"]) == (4, 9)
    kept = resumed_settings(changed, run.path, [])
    assert (kept["micro_batch_size"], kept["trainer"]["max_epochs"]) == (8, 2)


def test_checkpointing_belongs_to_the_machine():
    model = {**CONFIG["model"], "checkpointing": "none"}
    run = stored("a", {**CONFIG, "model": model})
    changed = {**CONFIG, "model": {**model, "checkpointing": "full", "learning_rate": 0.1}}
    typed = resumed_settings(changed, run.path, ["model.checkpointing"])
    assert typed["model"] == {**model, "checkpointing": "full"}
    assert resumed_settings(changed, run.path, [])["model"] == model


def test_digest_ignores_only_what_may_change():
    assert config_digest(CONFIG) == config_digest({**CONFIG, "micro_batch_size": 1})
    assert config_digest(CONFIG) != config_digest({**CONFIG, "global_batch_size": 1})


def test_latest_run_is_the_newest(tmp_path):
    stored("outputs/train/b", age_s=10)
    stored("outputs/train/a", age_s=99)
    assert latest_run().name == "b"
    with pytest.raises(InputError, match="train one first"):
        latest_run(trained=True)
    (tmp_path / "outputs/train/a/checkpoints/last.ckpt").touch()
    assert latest_run(trained=True).name == "a"


def test_bad_input_leaves_nothing_behind(tmp_path):
    def fail(run):
        with run.lock, run.discarded_on_bad_input():
            run.write_config(CONFIG)
            raise InputError("no")

    with pytest.raises(InputError):
        fail(RunFolder(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_run_with_a_checkpoint_is_never_removed(tmp_path):
    run = stored("a")
    (run.checkpoints / "last.ckpt").touch()
    with pytest.raises(InputError), run.lock, run.discarded_on_bad_input():
        raise InputError("no")
    assert (run.path / "config.yaml").exists()


def test_an_output_is_never_overwritten(tmp_path):
    (tmp_path / "p.csv").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        choose_folder({"run": None, "output": "p.csv"}, tmp_path / "x")
    with pytest.raises(InputError, match="does not exist"):
        choose_folder({"run": None, "output": "nowhere/p.csv"}, tmp_path / "x")
    assert (
        choose_folder({"run": None, "output": str(tmp_path / "q.csv")}, tmp_path / "x") == tmp_path
    )


@pytest.mark.parametrize("content", ["", "- a", "a: [", "\x00", "\xff", "a: 2024-99-99"])
def test_a_damaged_configuration_is_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.yaml"):
        RunFolder(tmp_path).read_config()


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run")


def test_a_fold_lies_in_the_folder_of_its_run(tmp_path):
    stored("whole", {**CONFIG, "folds": 5, "fold": 1})
    stored("whole/fold_1", {**CONFIG, "folds": 5, "fold": 1})
    stored("other/fold_1", {**CONFIG, "folds": 5, "fold": 1})
    assert fold_folder(Path("whole"), 1) == Path("whole/fold_1")
    assert is_fold(Path("whole/fold_1"))
    assert not is_fold(Path("whole"))
    assert not is_fold(Path("other/fold_1"))
    assert not is_fold(Path("nowhere"))


def test_another_fold_may_be_trained_into_a_run_but_not_into_a_fold(tmp_path):
    config = {**CONFIG, "folds": 5, "fold": 1}
    run, own = stored("whole", config), stored("whole/fold_1", config)
    other = {**config, "fold": 2}
    assert resumed_settings(other, run.path, ["fold"])["fold"] == 2
    assert resumed_settings(other, own.path, ["resume"])["fold"] == 1
    with pytest.raises(InputError, match="is fold 1 of a run: name the run's own folder"):
        resumed_settings(other, own.path, ["fold"])
    with pytest.raises(InputError, match="folds: 5 -> 4"):
        resumed_settings({**config, "folds": 4}, run.path, ["folds"])


def test_the_weights_of_a_fold_are_those_of_its_run(tmp_path):
    run = stored("outputs/train/a")
    own = RunFolder(run.path / "fold_0")
    assert not has_weights(run.path)
    (own.checkpoints / "last.ckpt").touch()
    assert has_weights(run.path)
    assert latest_run(trained=True).absolute() == run.path
