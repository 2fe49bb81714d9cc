"""`gpuopt tune` as people and programs call it; a stand-in measures, but for one real process."""

import json
import shlex
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from rich.console import Console

import gpuopt.tune
from gpuopt import worker
from gpuopt.config import compose_settings
from gpuopt.data.loader import WindowLoader
from gpuopt.find_answer import make_request
from gpuopt.finding.answer import CardAnswer
from gpuopt.finding.measured import DeviceProbe, measured_answer
from gpuopt.finding.probing_process import Measured
from gpuopt.hardware import DriverDevice, Gpu
from gpuopt.memory import ProbeResult
from gpuopt.run import RunFolder
from gpuopt.schema import to_find_config, to_train_config
from gpuopt.tuning.goal import Figures
from gpuopt.tuning.loader_search import LoaderReading
from gpuopt.tuning.loader_setting import LoaderSetting

MIB = 2**20
TINY = (
    "data=digits",
    "model=timm",
    "model.name=test_vit",
    "model.pretrained=false",
    "image_size=32",
    "global_batch_size=128",
)
CPU = (*TINY, "gpu=cpu")


class StandIn:
    """A device that takes 1,000 samples/s, a process that loads 300, a compiler that saves 20 %."""

    opened: ClassVar[list] = []
    accelerator = "cpu"
    slower_after = 1.0
    steps = 100_000

    def __init__(self, settings, probe_s):
        self.settings = to_train_config(settings)  # what the real process starts with
        StandIn.opened.append(self)
        self.asked, self.closed = [], False
        config = self.settings
        micro = config.micro_batch_size
        self.level = config.model["checkpointing"]
        if self.level == "auto":
            self.level = "none"
        workers = 0 if config.num_workers == "auto" else config.num_workers
        self.given = LoaderSetting(workers, config.prefetch_factor)
        precision = "fp32" if config.precision.name == "auto" else config.precision.name
        micro = 32 if micro == "auto" else micro
        self.facts = {
            "device": "Stand-in",
            "accelerator": StandIn.accelerator,
            "precision": precision,
            "micro_batch_size": micro,
            "global_batch_size": config.global_batch_size,
            "checkpointing": self.level,
            "batches_per_step": config.global_batch_size // micro,
            "steps_per_epoch": 10,
            "steps": StandIn.steps,
            "choices": [
                {"key": "precision", "value": precision, "evidence": "table", "reason": "a CPU"},
                {
                    "key": "micro_batch_size",
                    "value": micro,
                    "evidence": "table" if config.micro_batch_size == "auto" else "given",
                    "reason": "32 on a CPU",
                },
            ],
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed = True

    def _memory(self):
        compiled = {"off": 4, "default": 3}[self.settings.compile.mode]
        return compiled * 2**30 // (2 if self.level == "full" else 1)

    def reading(self):
        return LoaderReading(300, 1.0, 1.2, MIB)

    def alone(self):
        self.asked.append("alone")
        return Figures(700.0 if self.level == "full" else 1000.0, 32.0, self._memory())

    def beside(self, setting):
        self.asked.append(setting)
        speed = {0: 230, 1: 300, 2: 560}.get(setting.num_workers, 1000)
        if setting.num_workers and len(StandIn.opened) > 1:
            speed *= StandIn.slower_after
        return Figures(speed, 32000 / speed, self._memory())

    def compile(self):
        assert self.settings.compile.mode == "off"
        trial = {"mode": "default", "eager_s": 0.1, "step_s": 0.08, "least_saving_s": 0.02}
        trial |= {"spent_s": 30.0, "reason": "figures", "payback_steps": 1}
        return {"trials": [trial], "reason": "as found"}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call the command in this process, in an empty folder; returns its code and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpuopt.tune, "driver_devices", list)
    monkeypatch.setattr(gpuopt.tune, "BenchProcess", StandIn)
    monkeypatch.setattr("gpuopt.tuning.loader_limits.available_cpus", lambda: 8)
    for name, value in (("opened", []), ("accelerator", "cpu"), ("slower_after", 1.0)):
        monkeypatch.setattr(StandIn, name, value)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gpuopt", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            gpuopt.tune.main()
        out, err = capsys.readouterr()
        assert all(bench.closed for bench in StandIn.opened)
        return ended.value.code, out, err

    return run


def answer_of(call, *words, code=0):
    found, out, err = call(*words, "format=json")
    assert found == code, err
    return json.loads(out)


def settings_of(answer):
    """Compose what the command of an answer trains with."""
    program, command, *words = shlex.split(answer["command"])
    assert (program, command) == ("gpuopt", "train")
    return compose_settings("train", words)


def left_behind(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_loader_is_measured_and_the_command_uses_it(call, tmp_path):
    code, out, err = call(*CPU, "target=loader")
    assert (code, err) == (0, "")
    assert "num_workers=4 (measured: 1000 samples/s of 1000 that the device takes" in out
    command = out.strip().splitlines()[-1]
    assert command == (
        f"gpuopt train {' '.join(CPU)} num_workers=4 prefetch_factor=2 pin_memory=false"
    )
    assert left_behind(tmp_path) == []


def test_too_few_processors_are_said(call, monkeypatch):
    monkeypatch.setattr("gpuopt.tuning.loader_limits.available_cpus", lambda: 2)
    answer = answer_of(call, *CPU, "target=loader")
    assert answer["notes"][0].startswith("CPU bound: 440 samples/s missing of the 1000")
    assert answer["settings"]["num_workers"] == 2
    assert len(answer["loader"]["probes"]) <= 4


@pytest.mark.parametrize(
    ("goal", "setting"),
    [
        ("throughput", {"num_workers": 4, "prefetch_factor": 2}),
        ("latency", {"num_workers": 5, "prefetch_factor": 4}),
        ("memory", {"num_workers": 2, "prefetch_factor": 1}),
    ],
)
def test_the_goal_changes_the_loader(call, goal, setting):
    found = answer_of(call, *CPU, "target=loader", f"goal={goal}")["settings"]
    assert found == {**setting, "pin_memory": False}


def test_a_share_of_the_speed_has_to_remain(call):
    words = (*CPU, "target=loader", "goal=memory", "least_speed_ratio=0.9")
    assert answer_of(call, *words)["settings"]["num_workers"] == 4


@pytest.mark.parametrize(
    ("goal", "steps", "mode"),
    [
        *(("throughput", 100_000, "default"), ("throughput", 10, "off")),
        *(("latency", 10, "default"), ("memory", 10, "default")),
    ],
)
def test_the_goal_and_the_run_decide_what_is_compiled(call, monkeypatch, goal, steps, mode):
    monkeypatch.setattr(StandIn, "steps", steps)
    answer = answer_of(call, *CPU, "target=compile", f"goal={goal}", "compile.mode=max-autotune")
    assert answer["settings"] == {"compile.mode": mode}
    assert answer["compile"]["modes"][0]["payback"] == "375 steps, 37.5 epochs"
    assert f"compile.mode={mode}" in answer["command"]
    assert "max-autotune" not in answer["command"]


def test_all_writes_one_experiment_that_trains(call, tmp_path, monkeypatch):
    monkeypatch.setattr("gpuopt.tuning.loader_limits.available_cpus", lambda: 1)
    words = ("target=all", "goal=latency", "trainer.max_steps=2", "tta=none", "logger=none")
    code, out, err = call(*CPU, *words)
    assert (code, err) == (0, "")
    assert "Before and after" in out
    assert "the CPU was asked for; " in out
    assert "processors and" in out
    assert left_behind(tmp_path) == ["conf/.gpuopt", "conf/experiment/tuned_1.yaml"]
    text = Path("conf/experiment/tuned_1.yaml").read_text()
    for comment in ("# By gpuopt tune on", "# num_workers=1 (measured:", "# compile.mode="):
        assert comment in text
    content = yaml.safe_load(text)
    assert {"override /precision": "fp32"} in content["defaults"]
    assert content["compile"] == {"mode": "default"}
    *_, written, command = out.strip().splitlines()
    assert written == "written: conf/experiment/tuned_1.yaml"
    assert command == "gpuopt train experiment=tuned_1"
    settings = compose_settings("train", shlex.split(command)[2:])
    chosen = {key: settings[key] for key in ("num_workers", "prefetch_factor", "micro_batch_size")}
    assert chosen == {"num_workers": 1, "prefetch_factor": 4, "micro_batch_size": 32}
    assert (settings["precision"]["name"], settings["compile"]["mode"]) == ("fp32", "default")
    assert settings["model"]["name"] == "test_vit"
    # The run itself, compiled by a backend that takes no time.
    settings["compile"]["backend"] = "eager"
    loaders, make = [], WindowLoader.__init__

    def noted(self, *args, **options):
        loaders.append((options["num_workers"], options["prefetch_factor"]))
        make(self, *args, **options)

    monkeypatch.setattr(WindowLoader, "__init__", noted)
    monkeypatch.setattr(worker, "draw_figures", lambda *_: {})
    run = RunFolder(tmp_path / "run")
    with run.lock:
        run.write_config(settings)
        results = worker.work(run, Console(quiet=True))
    assert set(loaders) == {(1, 4)}
    evidence = {choice["key"]: choice["evidence"] for choice in results["choices"]}
    assert (evidence["num_workers"], evidence["micro_batch_size"]) == ("given", "given")


def test_a_file_that_exists_is_never_touched(call, tmp_path):
    for number in (1, 2):
        answer = answer_of(call, *CPU, "target=all")
        assert answer["written"] == [f"conf/experiment/tuned_{number}.yaml"]
    before = Path("conf/experiment/tuned_1.yaml").read_text()
    code, _, err = call(*CPU, "target=all", "save_config=tuned_1")
    assert code == 2
    assert "exists and is not changed" in err
    assert Path("conf/experiment/tuned_1.yaml").read_text() == before
    assert StandIn.opened[-1].closed


def test_a_file_is_written_where_it_is_asked_for(call, tmp_path):
    assert answer_of(call, *CPU, "target=all", "save_config=null")["written"] == []
    assert left_behind(tmp_path) == []
    answer = answer_of(call, *CPU, "target=loader", "save_config=mine")
    assert answer["command"] == "gpuopt train experiment=mine"
    assert settings_of(answer)["num_workers"] == 4


def test_before_and_after_are_measured_in_turns(call):
    answer = answer_of(call, *CPU, "target=all", "num_workers=1")
    before, after = StandIn.opened[-2:]
    assert [before.given.num_workers, after.given.num_workers] == [1, 4]
    assert len(before.asked) == len(after.asked) == 6
    found = answer["comparison"]
    assert found["speed"]["ratio"] == pytest.approx(1000 / 300)
    assert found["before"]["step_ms"] == pytest.approx(128 / 300 * 1000)
    assert found["after"]["memory_bytes"] < found["before"]["memory_bytes"]


def test_what_is_surely_slower_is_not_taken(call, tmp_path, monkeypatch):
    monkeypatch.setattr(StandIn, "slower_after", 0.2)
    answer = answer_of(call, *CPU, "target=all")
    assert answer["settings"] == {}
    assert "the settings as they were typed are better" in answer["notes"][-1]
    assert left_behind(tmp_path) == []
    assert answer["command"] == f"gpuopt train {' '.join(CPU)}"


def test_memory_weighs_checkpointing_too(call):
    answer = answer_of(call, *CPU, "target=all", "goal=memory")
    assert answer["settings"]["model.checkpointing"] == "full"
    assert settings_of(answer)["model"]["checkpointing"] == "full"
    words = ("goal=memory", "least_speed_ratio=0.8")
    assert answer_of(call, *CPU, "target=all", *words)["settings"]["model.checkpointing"] == "none"
    given = answer_of(call, *CPU, "target=all", "goal=memory", "model.checkpointing=none")
    assert "model.checkpointing" not in given["settings"]


def test_one_process_serves_all_stages_on_a_cpu(call):
    answer_of(call, *CPU, "target=all")
    assert len(StandIn.opened) == 3  # the stages; before; after


def test_an_absent_card_is_predicted_and_one_line_says_what_is_not_measured(call):
    answer = answer_of(call, *TINY, "gpu=rtx3060", "target=all")
    assert answer["unmeasured"] == (
        "not measured: loader, compilation, before and after: RTX 3060 12GB is not in this "
        "machine: no NVIDIA GPU"
    )
    evidence = {choice["key"]: choice["evidence"] for choice in answer["choices"]}
    assert evidence == {"micro_batch_size": "predicted", "precision": "table"}
    assert settings_of(answer)["micro_batch_size"] == answer["settings"]["micro_batch_size"]
    assert StandIn.opened == []


@pytest.mark.parametrize("target", ["loader", "compile"])
def test_an_absent_card_cannot_be_measured(call, target):
    code, out, err = call(*TINY, "gpu=rtx3060", f"target={target}")
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert f"target={target} cannot be measured: RTX 3060 12GB is not in this machine" in line


@pytest.fixture
def card(monkeypatch):
    """Put a card of 10 GiB in its place, where each sample takes 1 GiB more than the last."""
    device = DriverDevice(0, "Stand-in", 10_240 * MIB, 28, 8, 6)
    monkeypatch.setattr(gpuopt.tune, "driver_devices", lambda: [device])
    monkeypatch.setattr(StandIn, "accelerator", "cuda")

    def run(samples):
        seconds = 0.01 * samples + 0.03  # half the speed with 3, full speed never
        return ProbeResult(samples, (500 + 1000 * samples) * MIB, 500 * MIB, 10_000 * MIB, seconds)

    def measure(order):
        config = to_find_config(order["settings"])
        request = make_request(config)
        stand_in = config.gpu.filled_from(Gpu(name="Card", memory_mib=10_240, precision="bf16"))
        probing = DeviceProbe(run, 10_000 * MIB, 0)
        answer = measured_answer(request, stand_in, probing, order["reason"])
        return Measured(CardAnswer.from_dict(answer.as_dict()), {"absent": "made up"})

    monkeypatch.setattr(gpuopt.tune, "measure_in_process", measure)


def test_a_card_is_probed_for_the_batch_and_the_goal_changes_it(call, card):
    batches = {}
    for goal in ("throughput", "memory"):
        answer = answer_of(call, *TINY, "target=all", f"goal={goal}")
        choices = {choice["key"]: choice for choice in answer["choices"]}
        assert choices["micro_batch_size"]["evidence"] == "measured"
        assert choices["pin_memory"]["value"] is True
        batches[goal] = choices["micro_batch_size"]["value"]
    assert 1 <= batches["memory"] < batches["throughput"] <= 9


def test_a_batch_that_was_given_is_kept(call, card):
    answer = answer_of(call, *TINY, "target=all", "micro_batch_size=2")
    assert "micro_batch_size" not in answer["settings"]
    assert "micro_batch_size=2" in answer["command"] or answer["written"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target=everything"], "target=everything is not one of loader, compile, all"),
        (["goal=speed"], "goal=speed is not one of throughput, latency, memory"),
        (["probe_s=0"], "probe_s=0.0 is out of range"),
        (["least_speed_ratio=2"], "least_speed_ratio=2.0 is out of range"),
        (["trainer.devices=2"], "trainer.devices=2: one device is tuned"),
        (["resume=true"], "run and resume are for gpuopt train"),
        (["~experiment"], "cannot be taken away"),
        (["prefetch_factor=0"], "prefetch_factor=0 is out of range"),
    ],
)
def test_bad_input_is_one_line(call, words, message):
    code, out, err = call(*CPU, *words)
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert message in line


def test_the_time_of_a_probe_reaches_the_process(call, monkeypatch):
    seen = []

    def begin(settings, probe_s):
        seen.append(probe_s)
        return StandIn(settings, probe_s)

    monkeypatch.setattr(gpuopt.tune, "BenchProcess", begin)
    answer_of(call, *CPU, "target=loader", "probe_s=0.125")
    assert seen == [0.125]


@pytest.mark.slow
def test_the_real_process_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["target=loader", "probe_s=0.02", "micro_batch_size=64", "format=json"]
    monkeypatch.setattr(sys, "argv", ["gpuopt", *CPU, *words])
    with pytest.raises(SystemExit) as ended:
        gpuopt.tune.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    answer = json.loads(out)
    assert answer["device"] == "cpu"
    assert 1 <= len(answer["loader"]["probes"]) <= 4
    assert settings_of(answer)["num_workers"] == answer["settings"]["num_workers"]
