"""Disks that are full, small or read-only while a run writes to them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuopt.storage.checkpoint import newest_valid
from tests.faults.commands import fault
from tests.faults.conftest import BUSY
from tests.faults.fingerprint import fingerprint

# A disk of its own for each test; the run needs about 13 MiB, three checkpoints among them.
SIZE = "40m"
WORKERS = ("num_workers=2", "data.worker_timeout_s=3")


@pytest.fixture
def make_disk(tmp_path):
    """Mount a small file system; it is gone after the test."""
    mounted = []

    def make(name, size=SIZE, *options):
        folder = tmp_path / name
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs"]
        if subprocess.run([*words, folder], capture_output=True, check=False).returncode:
            pytest.skip("mounting a small file system needs rights that are missing here")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def disk(make_disk):
    return make_disk("disk")


@pytest.fixture(scope="module")
def words():
    return (*BUSY, "num_workers=0", "logger=tensorboard")


@pytest.fixture
def whole(start_train, words, tmp_path):
    """The fingerprint of a run that nothing disturbs."""
    end = start_train(tmp_path, *words, "run=whole").end()
    assert end.code == 0, end.stderr
    return fingerprint(tmp_path / "whole")


def test_full_while_it_saves_and_logs_it_goes_on_and_ends_the_same_after_a_resume(
    start_train, start_command, words, whole, disk, tmp_path
):
    """Checkpoints, log lines and TensorBoard's events have no room from the fourth save on."""
    full = fault("saving", "fill", call=4, path=disk / "filler")
    end = start_train(tmp_path, *words, f"run={disk / 'run'}", faults=(full,)).end()
    assert end.code == 3, end.stderr  # the results have no room, either
    assert "No space left" in end.last_line
    assert end.stderr.count("Traceback") == 0, end.stderr
    assert "training goes on" in end.stderr
    assert "epoch 3/3" in end.stderr
    assert end.stderr.count("train.log cannot be written") == 1
    found = newest_valid(disk / "run/checkpoints")
    assert found is not None, "the last good checkpoint is lost"
    (disk / "filler").unlink()
    again = start_command(tmp_path, "gpuopt.train", f"resume={disk / 'run'}").end()
    assert again.code == 0, again.stderr
    assert fingerprint(disk / "run") == whole


def test_full_before_the_results_nothing_of_the_training_is_lost(
    start_train, start_command, words, whole, disk, tmp_path
):
    full = fault("testing", "fill", path=disk / "filler")
    end = start_train(tmp_path, *words, f"run={disk / 'run'}", faults=(full,)).end()
    assert end.code == 3, end.stderr
    assert "No space left" in end.last_line
    assert not (disk / "run/results.json").exists()
    (disk / "filler").unlink()
    again = start_command(tmp_path, "gpuopt.train", f"resume={disk / 'run'}").end()
    assert again.code == 0, again.stderr
    assert fingerprint(disk / "run") == whole


def test_a_disk_without_room_for_a_first_checkpoint(start_train, words, make_disk, tmp_path):
    disk = make_disk("small", "1m")
    end = start_train(tmp_path, *words, f"run={disk / 'run'}").end()
    assert end.code == 3, end.stderr
    assert "No space left" in end.last_line
    assert "Traceback" not in end.stderr


def test_a_read_only_folder_is_refused_before_anything_is_done(start_train, make_disk, tmp_path):
    disk = make_disk("frozen", SIZE, "ro")
    end = start_train(tmp_path, f"run={disk / 'run'}").end()
    assert end.code == 2
    assert "run cannot be made (Read-only file system)" in end.last_line


def test_a_run_that_has_become_read_only_is_not_resumed(
    start_train, start_command, disk, words, tmp_path
):
    killed = fault("training step", call=8)
    end = start_train(tmp_path, *words, f"run={disk / 'run'}", faults=(killed,)).end()
    assert end.code == -9, end.stderr
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    end = start_command(tmp_path, "gpuopt.train", f"resume={disk / 'run'}").end()
    assert end.code == 2
    assert "cannot be written (Read-only file system)" in end.last_line


def test_a_full_folder_for_temporary_files_is_nothing_to_a_run(
    start_train, words, whole, make_disk, tmp_path
):
    """Loaders, plots and the checkpoint writer have to do without `TMPDIR`."""
    disk = make_disk("temporary", "4k")
    (disk / "filler").write_bytes(bytes(4096))
    environment = {"TMPDIR": str(disk)}
    end = start_train(tmp_path, *words, "num_workers=2", "run=run", environment=environment).end()
    assert end.code == 0, end.stderr
    assert fingerprint(tmp_path / "run") == whole


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a mount namespace")
def test_full_shared_memory_is_named(tiny, tmp_path):
    """In a namespace of its own, where nobody else's /dev/shm is touched."""
    script = tmp_path / "small_shared_memory.sh"
    script.write_text(
        'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@" || exit 99\n', "utf-8"
    )
    inside = ["unshare", "--mount", "bash", str(script)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs rights that are missing here")
    done = subprocess.run(
        [*inside, sys.executable, "-m", "gpuopt.train", *tiny, *WORKERS, "run=run"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 3, done.stderr
    assert "/dev/shm" in last
    assert "num_workers" in last
    assert Path(tmp_path / "run/config.yaml").exists()
