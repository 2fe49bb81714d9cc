"""`gpuopt recommend_tta` as people and programs call it, on small runs."""

import json
import shlex
import shutil
import sys
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

import gpuopt.predict
import gpuopt.recommend_answer
import gpuopt.recommend_tta
from gpuopt.config import compose_settings
from gpuopt.fold_runs import train_folds
from gpuopt.run import RunFolder
from gpuopt.session import tta_timing, view_passes

FEW = ("policies=[none,legacy,essential]", "num_workers=0")


@pytest.fixture(scope="module")
def home(train, tmp_path_factory):
    """A folder with a trained run of a small network that knows upright digits."""
    folder = tmp_path_factory.mktemp("home")
    words = ("model.name=test_efficientnet", "model.learning_rate=0.01", "trainer.max_epochs=3")
    train(folder / "run", *words, "micro_batch_size=32", "global_batch_size=32")
    return folder


@pytest.fixture
def call(home, monkeypatch, capsys):
    """Call a command in this process; returns its code and what it said.

    Where it runs `./conf` is the user's, and no timed pass is longer than one batch.
    """
    monkeypatch.chdir(home)
    monkeypatch.setattr(gpuopt.recommend_answer, "driver_devices", list)
    monkeypatch.setattr(tta_timing, "_MOST_BATCHES", 1)
    place = f"cache_dir={home}/cache"

    def run(*words, command=gpuopt.recommend_tta):
        monkeypatch.setattr(sys, "argv", ["gpuopt", *words, place])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    yield run
    shutil.rmtree(home / "conf", ignore_errors=True)


def answer_of(call, *words, code=0):
    found, out, err = call("run=run", *FEW, "format=json", *words)
    assert found == code, err
    return json.loads(out)


def test_a_table_for_people_and_the_command_that_uses_it(call, home):
    code, out, err = call("run=run", *FEW, "min_f1=0.5", "target_minutes=600")
    assert (code, err) == (0, "")
    for words in ("test_efficientnet at 32 px: 450 images", "essential", "recommended", "measured"):
        assert words in out
    assert out.strip().splitlines()[-1] == (
        f"gpuopt predict run=run num_workers=0 cache_dir={home}/cache engine=eager tta=none"
    )
    (folder,) = (home / "outputs/recommend_tta").iterdir()
    assert {path.name for path in folder.iterdir()} == {"recommendation.json", "frontier.png"}
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((folder / "recommendation.json").read_text())
    assert content["chosen"] == "none"
    shutil.rmtree(home / "outputs")


def test_a_second_start_makes_no_forward_pass(call, monkeypatch):
    first = answer_of(call)
    monkeypatch.setattr(view_passes, "score_views", lambda *_, **__: pytest.fail("a pass"))
    monkeypatch.setattr(view_passes, "load_part", lambda *_: pytest.fail("a model"))
    monkeypatch.setattr(tta_timing, "load_part", lambda *_: pytest.fail("a model"))
    second = answer_of(call)
    assert second["policies"] == first["policies"]
    assert second["time"] == first["time"]


def test_json_says_what_was_found_and_how_sure(call):
    answer = answer_of(call, "target_minutes=600")
    assert (answer["schema"], answer["folds"], answer["images"]) == (1, 1, 450)
    assert answer["selection_images"] + answer["report_images"] == 269
    policies = {policy["name"]: policy for policy in answer["policies"]}
    assert {"none", "legacy", "essential"} <= set(policies)
    minutes = [policy["minutes"]["value"] for policy in answer["policies"]]
    assert minutes == sorted(minutes)
    for policy in policies.values():
        score = policy["macro_f1"]
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
    # Turned digits are others: the model is surely worse with them.
    assert policies["legacy"]["difference"]["high"] < 0
    assert answer["time"]["evidence"] == "measured"


def test_a_list_of_none_alone_is_timed(call):
    (policy,) = answer_of(call, "policies=[none]")["policies"]
    assert policy["name"] == "none"
    assert policy["minutes"]["value"] > 0


def test_what_cannot_be_reached_is_told_with_the_nearest_and_code_4(call, home):
    answer = answer_of(call, "min_f1=1", "target_minutes=600", "save_config=mine", code=4)
    assert answer["chosen"] is None
    assert answer["command"] is None
    assert not (home / "conf").exists()
    code, out, err = call("run=run", *FEW, "min_f1=1")
    assert code == 4
    assert "nearest" in out
    (line,) = err.splitlines()
    assert line.startswith(
        f"gpuopt recommend_tta: min_f1=1: none; the nearest is {answer['nearest']}"
    )


def test_the_saved_views_are_an_option_that_predict_takes(call, home):
    words = ("min_f1=0.2", "save_config=mine")
    code, out, err = call("run=run", *FEW, *words)
    assert (code, err) == (0, "")
    file = home / "conf/tta/mine.yaml"
    content = yaml.safe_load(file.read_text())
    assert (content["name"], content["views"]) == ("mine", [{}])
    assert f"written: {file.relative_to(home)}" in out
    command = shlex.split(out.strip().splitlines()[-1])
    assert command[:3] == ["gpuopt", "predict", "run=run"]
    assert command[-2:] == ["engine=eager", "tta=mine"]
    code, out, err = call(*command[2:], "gpu=cpu", command=gpuopt.predict)
    assert code == 0, err
    assert "macro-F1 with tta=mine" in out
    before = file.read_bytes()
    code, _, err = call("run=run", *FEW, *words)
    assert code == 2
    assert "mine.yaml exists and is not changed" in err
    assert file.read_bytes() == before


def test_the_users_own_views_are_policies_too(call, home):
    (home / "conf/tta").mkdir(parents=True)
    (home / "conf/.gpuopt").write_text("")
    views = "views: [{hflip: true, weight: 2}, {}]\nmerge: geometric\n"
    (home / "conf/tta/own.yaml").write_text(f"name: own\n{views}")
    answer = answer_of(call, "policies=[own]")
    own = next(policy for policy in answer["policies"] if policy["name"] == "own")
    assert own["views"] == [{"hflip": True, "weight": 2}, {}]
    assert own["merge"] == "geometric"


def worded(run, *typed, views=({},)):
    """Word the command as after these words; returns what predict makes of it."""
    policy = {"name": "greedy_2", "views": list(views)}
    source = SimpleNamespace(provider="main")
    node = SimpleNamespace(
        runtime=SimpleNamespace(config_sources=[source]), overrides=SimpleNamespace(task=typed)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpuopt.recommend_tta.HydraConfig, "get", lambda: node)
        command = gpuopt.recommend_tta._command(run, policy, is_named=False)
    return compose_settings("predict", shlex.split(command)[2:])


def test_views_of_the_search_are_spelled_out_for_predict():
    views = [{}, {"rotate": -7, "hflip": True}]
    settings = worded("a b", views=views)
    assert settings["run"] == "a b"
    assert settings["tta"]["views"] == views
    assert settings["tta"]["name"] == "greedy_2"


@pytest.mark.parametrize("run", ["outputs/train/2026-01-02/03-04", "a,b", "x=1", "it's", "r", "/"])
def test_a_run_by_any_name_is_the_one_that_predict_takes(run):
    assert worded(run)["run"] == run


def test_what_was_typed_about_the_device_is_said_to_predict_too():
    shared = ("gpu=rtx3060", "++gpu.memory_mib=6000", "precision=fp32", "batch_size=7")
    others = ("gpu.memory_gib=6", "run=latest", "policies=[none]", "min_f1=0.5", "images=9")
    settings = worded("r", *others, *shared, "num_workers=1", "cache_dir=c", "format=json")
    assert (settings["gpu"]["memory_mib"], settings["precision"]["name"]) == (6000, "fp32")
    assert (settings["batch_size"], settings["num_workers"]) == (7, 1)
    assert (settings["cache_dir"], settings["engine"]) == ("c", "eager")


def test_the_latest_run_is_named(call, home):
    (home / "outputs/train").mkdir(parents=True)
    (home / "outputs/train/one").symlink_to(home / "run")
    try:
        command = answer_of(call, "run=latest")["command"]
        assert "run=outputs/train/one " in command
    finally:
        shutil.rmtree(home / "outputs")


def test_a_card_that_is_not_here_is_predicted_and_new_images_are_counted(call):
    answer = answer_of(call, "gpu=rtx3060", "images=1000000")
    assert answer["time"]["evidence"] == "predicted"
    assert "RTX 3060 12GB in bf16" in answer["time"]["reason"]
    assert answer["images"] == 1_000_000
    here = answer_of(call, "images=1000000")
    assert here["time"]["evidence"] == "measured"
    assert [p["macro_f1"] for p in here["policies"] if p["is_preset"]]


def test_folds_are_scored_on_what_each_was_not_trained_on(call, home, tiny, compose):
    run = RunFolder(home / "folds")
    few = ("data.test_ratio=0.7", "micro_batch_size=32", "global_batch_size=32", "folds=2")
    with run.lock, pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuopt.worker.draw_figures", lambda *_: {})
        config = compose(*tiny, *few)
        run.write_config(config)
        train_folds(run, config, Console(quiet=True))
    answer = answer_of(call, "run=folds")
    assert answer["folds"] == 2
    assert any("the one fold that did not train on it" in note for note in answer["notes"])
    assert answer["selection_images"] + answer["report_images"] == 539
    pooled = json.loads((home / "folds/results.json").read_text())["metrics"]["macro_f1"]["value"]
    plain = next(policy for policy in answer["policies"] if policy["name"] == "none")
    mean = (plain["macro_f1"]["value"] + plain["selection_f1"]) / 2
    assert mean == pytest.approx(pooled, abs=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=nowhere"], "run=nowhere does not exist"),
        (["run=run/checkpoints/best.ckpt"], "is a file without validation images"),
        (["run=run", "target_minutes=0"], "target_minutes=0.0 is out of range: 0.001"),
        (["run=run", "target_minutes=-1"], "target_minutes=-1.0 is out of range"),
        (["run=run", "min_f1=1.2"], "min_f1=1.2 is out of range: 0 to 1"),
        (["run=run", "policies=[essentail]"], "tta=essentail: no such option (nearest: essential"),
        (["run=run", "policies=[]"], "policies=[]: give options of tta="),
        (["run=run", "policies=[../a]"], "give options of tta="),
        (["run=run", "images=few"], "images=few is neither auto nor a whole number"),
        (["run=run", "images=0"], "images=0 is out of range: 1"),
        (["run=run", "save_config=none"], "save_config=none: "),
        (["run=run", "taget_minutes=3"], "taget_minutes is no setting (nearest: target_minutes"),
        (["run=run", "gpu.memory_gib=6"], "peak rates are unknown"),
        (["--target-time", "20", "--min-f1-score", "0.9"], "target_minutes=20 min_f1=0.9"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(call, home, words, message):
    before = {path for path in home.rglob("*") if "cache" not in path.parts}
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("gpuopt recommend_tta: ")
    assert message in line
    assert before == {path for path in home.rglob("*") if "cache" not in path.parts}


def test_a_run_whose_configuration_is_damaged_is_bad_input(call, home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text("seed: 1\n")
    code, _, err = call(f"run={tmp_path}/run")
    assert code == 2
    assert "is damaged: it holds no data and seed" in err
