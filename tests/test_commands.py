"""The real commands in processes of their own: exit codes, last lines, signals, kill -9."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.commands import Command

pytestmark = pytest.mark.slow


def command(name, *arguments, cwd, **options):
    """Run a command to its end, in a process of its own unless told where to fork it."""
    return Command(f"gpuopt.{name}", *arguments, cwd=cwd, **options).end()


def last_line(text):
    return text.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny):
    """A folder with one finished run, made by the command itself."""
    folder = tmp_path_factory.mktemp("home")
    done = command("train", *tiny, "logger=tensorboard", cwd=folder)
    assert done.code == 0, done.stderr
    return folder, done


def test_train_prints_plan_and_scores_and_writes_the_run_folder(home):
    folder, done = home
    assert "macro-F1" in done.stdout
    assert "Plan" in done.stdout
    (run,) = (folder / "outputs/train").iterdir()
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "results.json",
        "predictions.csv",
        "train.log",
        "confusion_matrix.png",
        "samples.png",
        "checkpoints",
        "tensorboard",
    }
    assert not (folder / ".hydra").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["outputs"]


def test_secrets_of_the_environment_are_in_no_file(tmp_path, tiny, warm):
    canary = "canary-5d41402abc4b"
    words = (*tiny, "logger=tensorboard", "trainer.max_steps=2")
    secrets = {"AWS_SECRET_ACCESS_KEY": canary, "WANDB_API_KEY": canary}
    done = command("train", *words, cwd=tmp_path, environment=secrets, warm=warm)
    assert done.code == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if canary.encode() in path.read_bytes()]


def test_predict_uses_the_latest_run_and_its_own_test_images(home, warm):
    folder, _ = home
    words = ("tta=legacy", "gpu=cpu", "output=legacy.csv")
    done = command("predict", *words, cwd=folder, warm=warm)
    assert done.code == 0, done.stderr
    assert "macro-F1 with tta=legacy" in done.stdout
    with (folder / "legacy.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 450


def test_predict_reads_a_folder_with_a_checkpoint_file_alone(home, warm, tmp_path):
    from PIL import Image

    folder, _ = home
    (run,) = (folder / "outputs/train").iterdir()
    (tmp_path / "images/deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.jpg"):
        Image.new("RGB", (40, 20), (200, 30, 30)).save(tmp_path / "images" / name)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    arguments = (f"run={run / 'checkpoints/best.ckpt'}", "data=image_folder", "data.root=images")
    refused = command("predict", *arguments, "gpu=cpu", cwd=tmp_path, warm=warm)
    assert refused.code == 2
    assert "broken.png" in refused.last_line
    done = command(
        "predict",
        *arguments,
        "gpu=cpu",
        "data.max_rejected_ratio=0.5",
        "output=p.csv",
        cwd=tmp_path,
        warm=warm,
    )
    assert done.code == 0, done.stderr
    assert "broken.png" in done.stdout
    with (tmp_path / "p.csv").open() as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["a.png", "deep/b.jpg"]


def test_predict_refuses_data_of_other_classes(home, warm):
    folder, _ = home
    done = command(
        "predict",
        "data=documents",
        "data.train_count=200",
        "data.test_count=100",
        "gpu=cpu",
        f"cache_dir={folder / 'cache'}",
        cwd=folder,
        warm=warm,
    )
    assert done.code == 2
    assert "classes are not the checkpoint's 10" in done.last_line


def test_a_folder_in_use_is_refused_and_a_dead_owner_is_not(tiny, start_command, tmp_path):
    words = ("data.test_ratio=0.7", "trainer.max_epochs=40", "run=mine")
    options = ("gpuopt.train", *tiny, *words)
    first = start_command(tmp_path, *options)
    first.wait_until((tmp_path / "mine/checkpoints/best.ckpt").exists)  # an epoch has ended
    first.send(signal.SIGSTOP)
    second = start_command(tmp_path, *options, "resume=true").end()
    assert second.code == 2
    assert f"in use by process {first.pid}" in second.last_line
    first.send(signal.SIGKILL)
    first.end()
    third = start_command(tmp_path, *options, "resume=true", "trainer.max_epochs=6").end()
    assert third.code == 0, third.stderr


def test_debug_shows_the_trace_and_keeps_the_last_line(tmp_path, tiny, light):
    words = ("train", *tiny, "resume=nowhere")
    plain = command(*words, cwd=tmp_path, warm=light)
    debug = command(*words, "debug=true", cwd=tmp_path, warm=light)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert plain.last_line == debug.last_line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["micro_batch_size=-4"], "micro_batch_size=-4"),
        (["folds=5", "fold=5"], "fold=5 does not exist: folds=5 are counted from 0"),
    ],
)
def test_bad_input_is_refused_before_torch_and_writes_nothing(tmp_path, words, message):
    """With torch made impossible to import, the message must still be the same."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    code = (
        f"import sys; sys.path.insert(0, '.'); sys.argv = {['train', *words]};"
        "from gpuopt.train import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert last_line(done.stderr).startswith(f"gpuopt train: {message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["torch.py"]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    piped = f"{sys.executable} -m gpuopt.train --help | head -n 1"
    done = subprocess.run(
        ["bash", "-c", piped], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("gpuopt train: settings are written key=value")
    assert "Error" not in done.stderr


def test_the_console_script_dispatches(home):
    folder, _ = home
    script = Path(sys.executable).parent / "gpuopt"

    def run(*arguments):
        return subprocess.run(
            [script, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("--help").stdout.startswith("usage: gpuopt <command>")
    assert run("--version").stdout.startswith("gpuopt 0.")
    assert (run().returncode, run("trian").returncode) == (2, 2)
    assert "nearest: train" in run("trian").stderr
    shown = run("config", "show", "gpu=rtx3060", "tta=essential")
    assert "memory_mib: 12288" in shown.stdout
    assert run("train", "--help").returncode == 0


def test_config_copies_validates_and_a_users_file_wins(tmp_path):
    assert command("config", "validate", "gpu=rtx4090", cwd=tmp_path).stdout == "train: valid\n"
    refused = command("config", "validate", "gpu=rtx4099", cwd=tmp_path)
    assert (refused.code, "nearest: rtx4090" in refused.stderr) == (2, True)
    assert command("config", "copy", cwd=tmp_path).code == 0
    again = command("config", "copy", cwd=tmp_path)
    assert (again.code, "conf exists" in again.stderr) == (2, True)
    mine = tmp_path / "conf/trainer/default.yaml"
    mine.write_text(mine.read_text().replace("max_epochs: 4", "max_epochs: 77"))
    preset = tmp_path / "conf/gpu/mine.yaml"
    preset.write_text((tmp_path / "conf/gpu/rtx3060.yaml").read_text().replace("12288", "12000"))
    shown = command("config", "show", "gpu=mine", "mode=basic", cwd=tmp_path)
    assert "memory_mib: 12000" in shown.stdout
    assert f"# gpu=mine from {tmp_path / 'conf'}" in shown.stdout
    assert "# typed: gpu=mine, mode=basic" in shown.stdout
    elsewhere = command("config", "show", "gpu=mine", "--config-dir", "conf", cwd=tmp_path)
    assert "memory_mib: 12000" in elsewhere.stdout
    (tmp_path / "conf/.gpuopt").unlink()
    foreign = command("config", "show", "gpu=mine", cwd=tmp_path)
    assert foreign.code == 2  # a folder named conf without the marker is somebody else's
