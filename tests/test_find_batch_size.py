"""`gpuopt find_batch_size` as people and programs call it, on a machine without a GPU."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import gpuopt.find_batch_size
import gpuopt.train
from gpuopt.config import compose_settings
from gpuopt.find_answer import make_request
from gpuopt.finding.answer import CardAnswer
from gpuopt.finding.measured import DeviceProbe, measured_answer
from gpuopt.finding.probing_process import Measured
from gpuopt.hardware import DriverDevice, Gpu
from gpuopt.memory import ProbeResult
from gpuopt.schema import to_find_config

MIB = 2**20

TINY = (
    "data=digits",
    "model=timm",
    "model.name=test_vit",
    "model.pretrained=false",
    "image_size=32",
    "global_batch_size=128",
)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call a command in this process, in an empty folder; returns its code and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpuopt.find_batch_size, "driver_devices", list)

    def run(*words, command=gpuopt.find_batch_size):
        monkeypatch.setattr(sys, "argv", ["gpuopt", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def measured(monkeypatch):
    """Put a card of 10 GiB in its place, where each sample takes 1 GiB more than the last."""
    device = DriverDevice(0, "Stand-in", 10_240 * MIB, 28, 8, 6)
    monkeypatch.setattr(gpuopt.find_batch_size, "driver_devices", lambda: [device])

    def put(base_mib):
        def run(samples):
            peak = (base_mib + 1000 * samples) * MIB
            return ProbeResult(samples, peak, base_mib * MIB, 10_000 * MIB, 0.01 * samples)

        def measure(order, *, on_probe):
            config = to_find_config(order["settings"])
            request = replace(make_request(config), image_size=32)
            card = Gpu(name=device.name, memory_mib=10_240, precision="bf16")
            card = config.gpu.filled_from(card)
            probing = DeviceProbe(run, 10_000 * MIB, 0)
            answer = measured_answer(request, card, probing, order["reason"], on_probe)
            return Measured(CardAnswer.from_dict(answer.as_dict()), {"absent": "made up"})

        monkeypatch.setattr(gpuopt.find_batch_size, "measure_in_process", measure)

    return put


def left_behind(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_card_that_is_not_there_is_predicted_and_said_so(call, tmp_path):
    code, out, err = call(*TINY, "gpu=rtx3060")
    assert (code, err) == (0, "")
    *table, command = out.strip().splitlines()
    assert max(map(len, table)) <= 100
    assert "RTX 3060 12GB is not in this machine: no NVIDIA GPU" in out
    assert "predicted" in out
    assert "measured" not in out
    assert command == f"gpuopt train {' '.join(TINY)} gpu=rtx3060 micro_batch_size=128"
    assert compose_settings("train", shlex.split(command)[2:])["micro_batch_size"] == 128
    assert left_behind(tmp_path) == []


def answer_of(call, *words, code=0):
    found, out, err = call(*TINY, "format=json", *words)
    assert found == code, err
    return json.loads(out)


def test_json_for_programs(call):
    answer = answer_of(call, "gpu.memory_gib=1.5")
    (card,) = answer["cards"]
    assert (answer["schema"], answer["purpose"], answer["image_size"]) == (1, "train", 32)
    assert (card["card"], card["evidence"], card["precision"]) == ("1.5 GiB", "predicted", "bf16")
    assert card["probes"][-1]["batch_size"] == answer["largest"] + 1
    assert not card["probes"][-1]["fits"]
    assert answer["choice"]["evidence"] == "predicted"
    assert "memory_gib" not in answer["command"]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["max_batch_size=24"], 22),  # 128 in 6 parts
        (["purpose=predict"], 256),
        (["purpose=tta", "max_batch_size=10"], 10),
    ],
)
def test_a_maximum_bounds_what_is_chosen_and_the_global_batch_is_cut_evenly(call, words, chosen):
    answer = answer_of(call, "gpu=rtx3060", *words)
    assert answer["choice"]["value"] == chosen
    command, *words = shlex.split(answer["command"])[1:]
    settings = compose_settings(command, words)
    if answer["purpose"] == "train":
        assert settings["micro_batch_size"] == chosen
    else:
        assert command == "predict"
        assert settings["batch_size"] == chosen
        assert settings["tta"]["name"] == ("essential" if answer["purpose"] == "tta" else "none")


def test_what_was_predicted_and_what_was_measured_are_the_same_bytes(call, measured):
    (predicted,) = answer_of(call, "gpu.memory_gib=10")["cards"]
    context = predicted["context_bytes"]
    assert context > 0
    assert predicted["free_bytes"] == 10 * 2**30 - context
    for probe in predicted["probes"]:
        assert probe["with_context_bytes"] == probe["allocated_bytes"] + context
        assert probe["fits"] is (probe["allocated_bytes"] <= predicted["budget_bytes"])
    measured(1000)
    (card,) = answer_of(call)["cards"]
    assert card["free_bytes"] == 10_000 * MIB  # of the allocator
    assert card["context_bytes"] is None
    for probe in card["probes"]:
        assert probe["allocated_bytes"] == (1000 + 1000 * probe["batch_size"]) * MIB
        assert probe["with_context_bytes"] is None


@pytest.mark.parametrize(
    ("words", "headroom_ratio"),
    [([], 0.03), (["headroom=0.2"], 0.2), (["safety_factor=0.9"], 0.1), (["headroom=0"], 0)],
)
def test_the_dial_is_that_of_a_measurement_as_well(call, measured, words, headroom_ratio):
    measured(1000)
    answer = answer_of(call, *words)
    (card,) = answer["cards"]
    assert card["headroom_ratio"] == headroom_ratio
    assert card["budget_bytes"] == int(10_000 * MIB * (1 - headroom_ratio))
    assert answer["choice"]["evidence"] == "measured"
    assert f", {100 * headroom_ratio:.0f} % kept free; " in answer["choice"]["reason"]


def test_the_headroom_is_one_dial(call):
    (card,) = answer_of(call, "gpu.memory_gib=2", "safety_factor=0.75")["cards"]
    usable_bytes = card["budget_bytes"] + card["context_bytes"]
    assert (card["headroom_ratio"], usable_bytes) == (0.25, 2**31 * 3 // 4)
    code, _, err = call(*TINY, "safety_factor=0.75", "headroom=0.25")
    assert code == 2
    assert "one dial" in err


def test_aggressive_recomputes_and_leaves_the_headroom_to_a_measurement(call):
    answer = answer_of(call, "gpu=rtx3060", "aggressive=true")
    (card,) = answer["cards"]
    assert answer["checkpointing"] == "full"
    assert answer["largest"] == card["levels"]["full"] > card["levels"]["none"]
    assert card["headroom_ratio"] == 0.08  # of a prediction
    assert any("only a probe on the card confirms" in note for note in answer["notes"])
    words = shlex.split(answer["command"])[2:]
    assert compose_settings("train", words)["model"]["checkpointing"] == "full"


def test_the_cpu_is_answered_with_what_its_preset_does(call):
    answer = answer_of(call)
    (card,) = answer["cards"]
    assert (card["evidence"], card["largest"], card["chosen"]) == ("table", None, 32)
    assert card["reason"] == "no NVIDIA GPU was found, so nothing was measured"
    assert "gpu=rtx3060" in answer["notes"][0]


def test_what_must_fit_and_does_not_ends_with_code_4_and_writes_nothing(call, tmp_path):
    largest = answer_of(call, "gpu.memory_gib=1.5", "target=8")["largest"]
    asked = f"target={largest + 1}"
    words = ("gpu.memory_gib=1.5", asked, "save_config=mine", "memory_profile=a.json")
    answer = answer_of(call, *words, code=4)
    assert answer["written"] == []
    code, out, err = call(*TINY, *words)
    assert code == 4
    assert "does not fit" in out
    (line,) = err.splitlines()
    assert line == (
        f"gpuopt find_batch_size: {asked}: {largest} fit 1.5 GiB, predicted; "
        "model.checkpointing=stages=1 is predicted to reach it"
    )
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], "min_batch_size=1"),
        (["target=8"], "target=8"),
        (["purpose=predict"], "min_batch_size=1"),
        (["model.checkpointing=auto", "min_batch_size=4"], "min_batch_size=4"),
    ],
)
def test_a_card_on_which_nothing_fits_has_an_answer_as_well(call, words, asked):
    words = ("gpu.memory_gib=1", *words)
    answer = answer_of(call, *words, code=4)
    (card,) = answer["cards"]
    assert (answer["largest"], answer["choice"]["value"], answer["command"]) == (0, 0, None)
    assert [(probe["batch_size"], probe["fits"]) for probe in card["probes"]] == [(1, False)]
    assert card["probes"][0]["allocated_bytes"] > card["budget_bytes"]
    code, out, err = call(*TINY, *words)
    assert code == 4
    assert "gpuopt train" not in out
    (line,) = err.splitlines()
    assert f"{asked}: not one sample fits 1 GiB, predicted; take a smaller" in line


@pytest.mark.parametrize(
    ("base_mib", "words", "largest", "asked"),
    [
        (9000, [], 0, "min_batch_size=1: not one sample fits Stand-in, measured"),
        (9000, ["target=8"], 0, "target=8: not one sample fits Stand-in, measured"),
        (9000, ["test_only=true"], 0, "min_batch_size=1: not one sample fits"),
        (6000, ["min_batch_size=4", "purpose=predict"], 3, "min_batch_size=4: 3 fit Stand-in"),
        (6000, ["test_only=true", "target=4"], 3, "target=4: 3 fit Stand-in, measured;"),
    ],
)
def test_what_does_not_fit_a_card_that_was_measured_is_told_as_json_as_well(
    call, measured, tmp_path, base_mib, words, largest, asked
):
    measured(base_mib)
    code, out, err = call(*TINY, "format=json", *words, f"cache_dir={tmp_path}/cache")
    answer = json.loads(out)
    (card,) = answer["cards"]
    assert (code, answer["largest"]) == (4, largest)
    assert answer["target_met"] is (False if "target" in asked else None)
    assert (card["evidence"], card["largest"]) == ("measured", largest)
    assert [p["fits"] for p in card["probes"] if p["batch_size"] == 1] == [largest > 0]
    assert asked in answer["shortfall"]
    assert err == f"gpuopt find_batch_size: {answer['shortfall']}\n"
    assert answer["written"] == []
    if "test_only=true" in words:
        assert left_behind(tmp_path) == []
    code, out, err = call(*TINY, *words, f"cache_dir={tmp_path}/cache")
    assert code == 4
    assert "does not fit" in out
    assert answer["shortfall"] in err


def test_a_test_writes_not_even_the_cache(call, tmp_path):
    place = f"cache_dir={tmp_path}/cache"
    answer = answer_of(call, "gpu=rtx3060", "test_only=true", place, "target=8")
    assert answer["target_met"] is True
    assert left_behind(tmp_path) == []
    answer_of(call, "gpu=rtx3060", place)
    assert (tmp_path / "cache/memory").is_dir()


def test_the_profile_says_what_takes_the_memory_and_why_there_is_no_snapshot(call, tmp_path):
    answer = answer_of(call, "gpu=rtx3060", "memory_profile=profile.json")
    assert answer["written"] == ["profile.json"]
    profile = json.loads((tmp_path / "profile.json").read_text())
    (card,) = profile["cards"]
    parts = card["predicted_parts_bytes"]
    assert card["batch_size"] == 128
    (peak,) = [probe for probe in card["probes"] if probe["batch_size"] == 128]
    assert sum(parts.values()) == peak["with_context_bytes"]
    assert parts["context"] == card["context_bytes"]
    assert "RTX 3060 12GB is not in this machine" in card["allocator_snapshot"]["absent"]
    before = (tmp_path / "profile.json").read_bytes()
    code, _, err = call(*TINY, "gpu=rtx3060", "memory_profile=profile.json")
    assert code == 2
    assert "profile.json exists" in err
    assert (tmp_path / "profile.json").read_bytes() == before


def test_the_answer_becomes_an_experiment_and_the_printed_command_trains_with_it(call, tmp_path):
    more = ("gpu=rtx3060", "max_batch_size=40", "trainer.max_steps=2", "tta=none", "logger=none")
    code, out, err = call(*TINY, *more, "save_config=mine", "optimizer=sgd", "debug=true")
    assert (code, err) == (0, "")
    file = tmp_path / "conf/experiment/mine.yaml"
    assert f"written: {file.relative_to(tmp_path)}" in out
    content = yaml.safe_load(file.read_text())
    assert content["micro_batch_size"] == 32
    assert content["experiment"] == "mine"
    assert "max_batch_size" not in content
    assert "debug" not in content
    command = shlex.split(out.strip().splitlines()[-1])
    assert command == ["gpuopt", "train", "experiment=mine"]
    before = file.read_bytes()
    code, out, err = call(*command[2:], command=gpuopt.train)
    assert code == 0, err
    (run,) = (tmp_path / "outputs/train").iterdir()
    used = yaml.safe_load((run / "config.yaml").read_text())
    assert used["optimizer"]["_target_"].endswith("Sgd")
    assert (used["micro_batch_size"], used["trainer"]["max_steps"]) == (32, 2)
    # It is the user's from now on.
    code, _, err = call(*TINY, *more, "save_config=mine")
    assert code == 2
    assert "mine.yaml exists and is not changed" in err
    assert file.read_bytes() == before
    # And can be built upon.
    code, _, err = call("experiment=mine", "max_batch_size=16", "save_config=smaller")
    assert code == 0, err
    settings = compose_settings("train", ["experiment=smaller"])
    assert settings["micro_batch_size"] == 16
    assert settings["optimizer"]["_target_"].endswith("Sgd")
    assert settings["model"]["name"] == "test_vit"
    # Prediction takes model and size from the run that was trained.
    code, out, err = call("purpose=predict", "run=latest", "gpu=rtx3060", "format=json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["model"], answer["image_size"]) == ("test_vit", 32)
    assert answer["command"] == "gpuopt predict run=latest gpu=rtx3060 batch_size=256"
    # And from the first trained one of the folds of a run.
    folds = tmp_path / "folds"
    folds.mkdir()
    (folds / "config.yaml").write_text("folds: 3\n")
    run.rename(folds / "fold_1")
    code, out, err = call("purpose=predict", "run=folds", "gpu=rtx3060", "format=json")
    assert code == 0, err
    assert json.loads(out)["image_size"] == 32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["micro_batch_size=4"], "micro_batch_size is what is looked for"),
        (["run=nowhere", "purpose=predict"], "run=nowhere does not exist: name a run folder"),
        (["purpose=infer"], "purpose=infer is not one of train, predict, tta"),
        (["gpu_ids=[0,0]"], "gpu_ids=[0, 0]: give CUDA's numbers"),
        (["gpu_ids=[0]"], "no NVIDIA GPU was found"),
        (["target=8"], "target is about the memory of a GPU"),
        (["save_config=a"], "there is no answer to save: no NVIDIA GPU was found"),
        (["save_config=a", "gpu=rtx3060", "~model.drop_rate"], "cannot take model.drop_rate away"),
        (["save_config=true", "gpu=rtx3060"], "save_config=True: give a name of letters"),
        (["save_config=none", "gpu=rtx3060"], "exists and is not changed"),
        (["memory_profile=no/a.json", "gpu=rtx3060"], "the folder no does not exist"),
        (["tagret=8"], "tagret is no setting (nearest: target"),
        (["-m", "target=8"], "only `gpuopt train` takes -m"),
        (["model.name=resnet51", "gpu=rtx3060"], "unknown to timm (nearest: resnet"),
    ],
)
def test_bad_settings_end_in_one_line_and_leave_nothing(call, tmp_path, words, message):
    code, out, err = call(*TINY, *words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("gpuopt find_batch_size: ")
    assert message in line
    assert left_behind(tmp_path) == []


def test_two_files_at_one_place_are_refused_before_the_search(call, tmp_path, monkeypatch):
    monkeypatch.delattr(gpuopt.find_batch_size, "find")
    (tmp_path / "own/experiment").mkdir(parents=True)
    place = tmp_path / "own/experiment/mine.yaml"
    words = ("save_config=mine", f"memory_profile={place}", "--config-dir", str(tmp_path / "own"))
    code, _, err = call(*TINY, "gpu=rtx3060", *words)
    assert code == 2
    assert f"memory_profile={place} is the file of save_config=mine" in err
    assert not place.exists()


def test_a_folder_that_was_named_takes_the_experiment(call, tmp_path):
    own = tmp_path / "own"
    (own / "experiment").mkdir(parents=True)
    words = ("gpu=rtx3060", "save_config=mine", "--config-dir", str(own))
    code, out, err = call(*TINY, *words)
    assert code == 0, err
    assert (own / "experiment/mine.yaml").is_file()
    command = shlex.split(out.strip().splitlines()[-1])
    assert command == ["gpuopt", "train", "--config-dir", str(own), "experiment=mine"]
    assert not Path("conf").exists()
    assert compose_settings("train", command[2:])["micro_batch_size"] == 128
