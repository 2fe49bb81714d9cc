"""The command line beats the experiment beats the mode beats the card."""

import subprocess
import sys

import pytest
import yaml

from gpuopt.config import compose_settings


@pytest.fixture
def own(tmp_path):
    """A user's configuration folder, and how Hydra is told of it."""
    files = {
        "gpu/mine": "# @package _global_\ndefaults:\n  - override /precision: fp16\n"
        "num_workers: 3\nimage_size: 96\ntrainer:\n  max_epochs: 2\n"
        "gpu:\n  name: mine\n  memory_mib: 8192\n",
        "mode/own": "# @package _global_\ndefaults:\n  - override /precision: bf16\n"
        "mode: own\nimage_size: 160\nglobal_batch_size: 64\nnum_workers: 1\n",
        "experiment/card": "# @package _global_\ndefaults:\n  - override /gpu: rtx3060\n"
        "  - override /mode: basic\n  - override /precision: fp32\nexperiment: card\n",
        "experiment/values": "# @package _global_\nexperiment: values\nimage_size: 200\n"
        "global_batch_size: 48\ngpu:\n  headroom_ratio: 0.5\nmodel:\n  learning_rate: 0.5\n"
        "callbacks:\n  moving_average:\n    enabled: false\n",
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    return tmp_path


def at(settings, key):
    for part in key.split("."):
        settings = settings[part]
    return settings


ORDER = {
    "a mode beats the defaults": (["mode=basic"], "trainer.max_epochs", 10),
    "a mode chooses the model": (["mode=basic"], "model.name", "efficientnet_b3"),
    "a value beats the mode": (["trainer.max_epochs=5", "mode=basic"], "trainer.max_epochs", 5),
    "an option beats the mode": (["model=resnet50", "mode=highperf"], "model.name", "resnet50"),
    "the typed model keeps a mode's value": (
        ["mode=lowend_highperf", "model=resnet50"],
        "model.checkpointing",
        "full",
    ),
    "a card beats the defaults": (["gpu=mine"], "precision.name", "fp16"),
    "a card's value beats the defaults": (["gpu=mine"], "num_workers", 3),
    "a mode's value beats the card": (["gpu=mine", "mode=own"], "num_workers", 1),
    "a mode's size beats the card": (["gpu=mine", "mode=own"], "image_size", 160),
    "a mode's option beats the card": (["gpu=mine", "mode=own"], "precision.name", "bf16"),
    "an option beats card and mode": (
        ["precision=tf32", "gpu=mine", "mode=own"],
        "precision.name",
        "tf32",
    ),
    "an experiment overrides the card": (["experiment=card"], "gpu.name", "RTX 3060 12GB"),
    "an experiment overrides the mode": (["experiment=card"], "mode", "basic"),
    "an experiment overrides precision": (["experiment=card"], "precision.name", "fp32"),
    "an experiment's card brings its values": (["experiment=card"], "gpu.memory_mib", 12288),
    "an experiment's precision beats the mode": (
        ["experiment=card", "mode=own"],
        "precision.name",
        "fp32",
    ),
    "a typed card beats the experiment": (["experiment=card", "gpu=t4"], "gpu.memory_mib", 15360),
    "a typed mode beats the experiment": (["experiment=card", "mode=highperf"], "mode", "highperf"),
    "typed precision beats the experiment": (
        ["experiment=card", "precision=bf16"],
        "precision.name",
        "bf16",
    ),
    "an experiment's value beats the mode": (
        ["experiment=values", "mode=highperf"],
        "global_batch_size",
        48,
    ),
    "an experiment switches a mode's callback": (
        ["experiment=values", "mode=highperf"],
        "callbacks.moving_average.enabled",
        False,
    ),
    "an experiment's value beats the card": (
        ["experiment=values", "gpu=rtx3060"],
        "gpu.headroom_ratio",
        0.5,
    ),
    "a value beats the experiment": (["experiment=values", "image_size=64"], "image_size", 64),
    "a value beats everything": (
        ["image_size=72", "experiment=values", "mode=own", "gpu=mine"],
        "image_size",
        72,
    ),
    "the last value wins": (["seed=1", "seed=2"], "seed", 2),
}


@pytest.mark.parametrize("case", ORDER)
def test_overrides_win_in_order(case, own):
    words, key, expected = ORDER[case]
    assert at(compose_settings("train", [*words, f"hydra.searchpath=[file://{own}]"]), key) == (
        expected
    )


@pytest.mark.parametrize(
    "case", [case for case, (words, *_) in ORDER.items() if len(words) > 1 and "last" not in case]
)
def test_where_a_word_stands_does_not_matter(case, own):
    words, key, expected = ORDER[case]
    words = [f"hydra.searchpath=[file://{own}]", *reversed(words)]
    assert at(compose_settings("train", words), key) == expected


@pytest.mark.slow
def test_a_configuration_folder_is_given_on_the_command_line(own):
    words = ["experiment=card", "precision=tf32", "--config-dir", str(own), "--cfg", "job"]
    done = subprocess.run(
        [sys.executable, "-m", "gpuopt.train", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["mode"] == "basic"
    assert shown["gpu"]["name"] == "RTX 3060 12GB"
    assert shown["precision"]["name"] == "tf32"
