"""Every command block of the README runs; long ones with small settings added behind."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.commands import Command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()
]
# Later settings win, so these make any train command small. `data=` is left to the command.
SMALL = [
    "model=timm",
    "model.name=test_vit",
    "model.pretrained=false",
    "image_size=32",
    "trainer.max_epochs=1",
    "trainer.max_steps=2",
    "compile.mode=off",
    "gpu=cpu",
]


DIGITS = ["data=digits", "data.test_ratio=0.1", "data.validation_ratio=0.1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the images that the README's examples name, and a finished run."""
    folder = tmp_path_factory.mktemp("readme")
    generator = np.random.default_rng(0)
    rows = []
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 255, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.jpg")
            rows.append(f"{name}/{i}.jpg,{name}")
    (folder / "contest").mkdir()
    shutil.copytree(folder / "photos", folder / "contest/train")
    (folder / "contest/train.csv").write_text("\n".join(["id,target", *rows]))
    _run(["train", *DIGITS, *SMALL, "tta=none"], folder)  # as a process of its own
    return folder


def _run(words, folder, warm=None):
    command, *settings = words
    end = Command(f"gpuopt.{command}", *settings, cwd=folder, warm=warm, children=3).end(200)
    assert end.code == 0, end.stderr
    return end


def test_it_is_short_and_complete():
    assert len(README.splitlines()) <= 220
    assert "@@" not in README
    assert {language for language, _ in BLOCKS} == {"bash", "python", "text"}


def test_its_pictures_and_links_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert all((ROOT / target).exists() for target in targets)


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(line, home, warm):
    words = shlex.split(line)
    if words[0] == "make":
        # Under `make test` this make is a nested one, which would say where it is.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        shown = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", *words[1:]],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        called = shown.stdout.strip().splitlines()[-1]
        assert re.search(r"gpuopt\.train|scripts/(test|tensorboard)", called), called
        if "gpuopt.train" not in called:
            return
        words = ["gpuopt", "train", *shlex.split(called.split("gpuopt.train")[1])]
    if words[:2] == ["python", "-m"]:
        words = ["gpuopt", words[2].removeprefix("gpuopt."), *words[3:]]
    assert words[0] == "gpuopt", line
    command, settings = words[1], words[2:]
    if command in ("check", "config", "find_batch_size"):
        _run([command, *settings], home, warm)
    elif command in ("export", "predict", "recommend_tta"):
        _run([command, *settings, "gpu=cpu"], home, warm)
    elif "resume=true" in settings:
        options = [*DIGITS, *SMALL, "seed=5", "tta=none"]
        _run(["train", *options], home, warm)
        done = _run(["train", *options, *settings], home, warm)
        assert "resuming from" in done.stderr
    else:
        data = [] if any(word.startswith("data=") for word in settings) else DIGITS
        batches = [] if "-m" in settings else ["micro_batch_size=8"]
        views = [] if any(word.startswith("tta=") for word in settings) else ["tta=none"]
        _run([command, *settings, *data, *SMALL, *batches, *views], home, warm)


def test_the_library_example_runs(tmp_path, monkeypatch):
    (example,) = [block for language, block in BLOCKS if language == "python"]
    monkeypatch.chdir(tmp_path)
    quiet = example.replace("max_epochs=1,", "max_epochs=1, logger=False, accelerator='cpu',")
    assert quiet != example
    exec(compile(quiet, "README.md", "exec"), {})
    assert (tmp_path / "checkpoints/best.ckpt").is_file()
