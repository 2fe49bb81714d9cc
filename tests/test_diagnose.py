"""`gpuopt diagnose` as people and programs call it."""

import json
import sys

import pytest

import gpuopt.diagnose
import gpuopt.diagnosis_targets
from gpuopt.configuration import translate_arguments
from gpuopt.errors import InputError
from gpuopt.hardware import DeviceReading
from tests.faults.commands import Command

TINY = (
    "data=digits",
    "model=timm",
    "model.name=test_vit",
    "model.pretrained=false",
    "image_size=32",
    "global_batch_size=32",
    "micro_batch_size=16",
    "gpu=cpu",
)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call the command in this process, in an empty folder; returns its code and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gpuopt", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            gpuopt.diagnose.main()
        out, err = capsys.readouterr()
        assert list(tmp_path.iterdir()) == []
        return ended.value.code, out, err

    return run


class Hot:
    index = 0

    def read(self):
        return DeviceReading(
            0, "Stand-in", utilisation_ratio=1.0, throttle_reasons=["software_thermal"]
        )


def test_what_a_step_is_made_of(call):
    code, out, err = call("target=bottleneck", *TINY, "rounds=3", "format=json")
    assert code == 0, err
    values = json.loads(out)
    assert (values["schema"], values["target"]) == (1, "bottleneck")
    assert values["training"].startswith("test_vit at 32 px, 16 x 2 images per step, fp32")
    parts = values["steps"]["parts_ms"]
    assert list(parts) == [
        "data wait",
        "batch preparation",
        "callbacks",
        "optimizer",
        "backward",
        "forward",
        "loop",
    ]
    assert min(part["value"] for part in parts.values()) >= 0
    assert len(values["steps"]["rounds_ms"]["real"]) == 3
    assert values["steps"]["samples_per_step"] == 32


def test_a_watch_over_the_memory(call):
    words = ("target=leak", *TINY, "duration=2", "threshold_mib=1000", "logger=none")
    code, out, err = call(*words)
    assert code == 0, err
    assert out.startswith(("No leak: memory came and went", "Too few steps to tell"))
    assert "Memory before a step" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("load", ["none", "train"])
def test_what_holds_a_gpu_down(call, monkeypatch, load):
    monkeypatch.setattr(gpuopt.diagnosis_targets, "cuda_devices", lambda details: [Hot()])
    # The card is a stand-in: training goes on on the CPU.
    monkeypatch.setattr(gpuopt.diagnosis_targets, "_devices", lambda config: [Hot()])
    words = (*TINY, f"load={load}", "duration=1", "interval=0.05", "format=json")
    code, out, err = call("target=throttle", *words)
    assert code == 0, err
    values = json.loads(out)
    assert values["verdict"].startswith("GPU 0 is held down: software_thermal")
    assert values["devices"][0]["reasons"]["software_thermal"]["seconds"] > 0.5
    assert ("training" in values) == (load == "train")


def test_who_holds_memory_without_a_gpu(call):
    code, out, err = call("target=cleanup", "gpu=cpu")
    assert (code, err) == (0, "")
    assert out.startswith("No NVIDIA GPU was found")


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["target=leek"], "target=leek is no diagnosis"),
        (["target=leak", "fomat=json"], "fomat is no setting (nearest: format)"),
        (["target=throttle", "gpu=cpu"], "target=throttle: no NVIDIA GPU can be read here"),
        (["data=image_folder", "data.root=nowhere"], "data.root"),
        (["-m", "target=leak"], "only `gpuopt train` takes -m"),
    ],
)
def test_bad_input_is_one_line(call, words, last):
    code, _, err = call(*words)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("gpuopt diagnose: ")
    assert last in line


def test_the_guides_flags_are_answered():
    typed = ["--monitor_duration", "600", "--threshold_mb", "100", "--analyze_model"]
    with pytest.raises(InputError) as answer:
        translate_arguments("diagnose", typed)
    assert "duration=600 threshold_mib=100" in str(answer.value)
    assert "not needed: --analyze_model" in str(answer.value)
    with pytest.raises(InputError, match="gpuopt diagnose takes that"):
        translate_arguments("train", ["--threshold_mb", "100"])


@pytest.mark.slow
def test_it_runs_as_a_process_of_its_own(tmp_path, warm):
    done = Command("gpuopt.diagnose", "target=cleanup", cwd=tmp_path, warm=warm).end()
    assert done.code == 0, done.stderr
    assert "GPU" in done.stdout
