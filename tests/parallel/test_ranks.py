"""Two ranks of one run, started by the real commands: parity, files, signals, death, resume."""

import csv
import json
import shutil
import signal
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from gpuopt.config import compose_settings
from gpuopt.run import RunFolder
from gpuopt.storage.checkpoint import read_checkpoint
from tests.parallel.conftest import TwoRanks, is_alive, kill, read_scalars

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]

# Dropout draws from each rank's own generator, averages and mixing add state of their own.
RANDOM = (
    "model.drop_rate=0.2",
    "callbacks.moving_average.enabled=true",
    "data.mixup_alpha=0.4",
    "callbacks.checkpoint.every_n_steps=2",
    "trainer.max_epochs=8",
    "logger=none",
)
TASK_OF_SLURM = {
    "SLURM_JOB_ID": "42",
    "SLURM_JOB_NAME": "x",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "127.0.0.1",
}


@pytest.fixture(scope="module")
def pair(two, warm, tmp_path_factory):
    """A run of two ranks without dropout, with what it printed.

    One of its ranks is forked, the other one started as ever.
    """
    folder = tmp_path_factory.mktemp("pair") / "run"
    end = TwoRanks(folder, *two, f"run={folder}", warm=warm, children=1, pictures=True).end()
    assert end.code == 0, end.stderr
    return folder, end.stdout, end.stderr


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory):
    """The same run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, "micro_batch_size=32", "logger=csv", pictures=True)
    return folder


@pytest.fixture(scope="module")
def undisturbed(two, warm, tmp_path_factory):
    """A random run of two ranks that nothing interrupts."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    end = TwoRanks(folder, *two, *RANDOM, f"run={folder}", warm=warm).end()
    assert end.code == 0, end.stderr
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text())


def same_weights(left, right):
    files = [read_checkpoint(folder / "checkpoints/last.ckpt") for folder in (left, right)]
    states = [file["state_dict"] for file in files]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_losses_are_those_of_one_process(pair, alone):
    plans = [results(folder)["plan"] for folder in (alone, pair[0])]
    assert [(p["devices"], p["accumulate_grad_batches"]) for p in plans] == [(1, 4), (2, 2)]
    losses = [read_scalars(folder, "train/loss_step") for folder in (alone, pair[0])]
    assert len(losses[0]) == 9  # the last window is short: 54 samples in 128
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    left, right = (load_file(folder / "model.safetensors") for folder in (alone, pair[0]))
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=1e-3, atol=2e-4)


def test_no_validation_image_is_counted_twice(pair, alone):
    """269 images: one rank has 135, the other repeats one that must not count."""
    assert results(alone)["data"]["validation_images"] % 2 == 1
    for name in ("val/f1", "val/accuracy", "val/loss", "train/loss"):
        (one,), (other,) = (read_scalars(folder, name) for folder in (alone, pair[0]))
        assert other == pytest.approx(one, abs=1e-6)


def test_the_first_rank_tests_all_images_and_writes_what_one_process_writes(pair, alone):
    folder = pair[0]
    with (folder / "predictions.csv").open() as stream:
        ids = [row["id"] for row in csv.DictReader(stream)]
    assert len(ids) == len(set(ids)) == results(folder)["data"]["test_images"] == 450
    assert results(folder)["metrics"] == results(alone)["metrics"]
    names = {path.name for path in folder.iterdir()} - {".lock"}
    # The fixture `train` keeps no log.
    assert names == {path.name for path in alone.iterdir()} - {".lock"} | {
        "train.log",
        "train.rank1.log",
    }


def test_one_rank_speaks_and_each_has_its_log(pair):
    folder, stdout, stderr = pair
    assert stdout.count("Plan") == 1
    assert stdout.count("results in") == 1
    assert stderr.count("epoch 1/1") == 1
    for name in ("train.log", "train.rank1.log"):
        lines = (folder / name).read_text().splitlines()
        assert sum("epoch 1/1" in line for line in lines) == 1


def test_stopped_and_killed_again_and_again_it_ends_with_the_same_weights(
    undisturbed, two, warm, tmp_path
):
    """Signals to one rank, to the command, to all; kill -9 of one rank, and of everything.

    All within one task of SLURM, which gives all of its processes the signal.
    """
    folder = tmp_path / "run"
    words = [*two, *RANDOM, f"run={folder}"]

    def interrupted(choose, number):
        run = TwoRanks(folder, *words, environment=TASK_OF_SLURM, warm=warm)
        if "resume=true" not in words:
            words.append("resume=true")
        run.wait_for_a_save()
        ranks = run.ranks()
        assert set(ranks) == {0, 1}
        started = time.monotonic()
        kill(*choose(run.command.pid, ranks), number=number)
        end = run.end()
        duration_s = time.monotonic() - started
        while any(is_alive(pid) for pid in ranks.values()):  # a killed command's ranks follow
            assert time.monotonic() - started < 60, "a rank was left behind"
            time.sleep(0.05)
        return end.code, end.last_line, duration_s

    for number, choose in (
        (signal.SIGTERM, lambda command, ranks: [ranks[1]]),
        (signal.SIGTERM, lambda command, ranks: [command]),
        (signal.SIGUSR1, lambda command, ranks: [command, *ranks.values()]),
    ):
        code, line, _ = interrupted(choose, number)
        assert (code, f"go on with resume={folder}" in line) == (75, True), line
        assert "saved" in line
    code, line, duration_s = interrupted(lambda command, ranks: [ranks[1]], signal.SIGKILL)
    assert code == 3
    assert line.startswith("gpuopt train: rank 1 (process ")
    assert "was killed by SIGKILL" in line
    assert duration_s < 30
    code, _, _ = interrupted(lambda command, ranks: [command], signal.SIGKILL)
    assert code == -9
    code, _, _ = interrupted(lambda command, ranks: [command, *ranks.values()], signal.SIGKILL)
    assert code == -9
    end = TwoRanks(folder, *words, environment=TASK_OF_SLURM, warm=warm).end()
    assert end.code == 0, end.stderr
    assert "resuming from" in end.stderr
    assert not list(folder.rglob("hpc_ckpt*"))
    assert same_weights(undisturbed, folder)
    assert results(folder)["metrics"] == results(undisturbed)["metrics"]


def test_torchrun_starts_a_dead_rank_again_in_the_same_folder(undisturbed, two, warm, tmp_path):
    folder = tmp_path / "run"
    run = RunFolder(folder)
    run.write_config(compose_settings("train", [*two, *RANDOM]))
    options = ("--standalone", "--nproc-per-node=2", "--max-restarts=1")
    started = TwoRanks(
        folder,
        *options,
        "-m",
        "gpuopt.worker",
        str(folder),
        module="torch.distributed.run",
        warm=warm,
    )
    started.wait_for_a_save()
    kill(started.ranks()[1])
    end = started.end()
    assert end.code == 0, end.stderr
    assert "resuming from" in (folder / "train.log").read_text()
    assert end.stdout.count("results in") == 1
    assert same_weights(undisturbed, folder)


def test_another_number_of_processes_is_refused_in_one_line(pair, warm, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pair[0], folder)
    before = sorted(path.name for path in folder.iterdir())
    end = TwoRanks(folder, str(folder), module="gpuopt.worker", warm=warm).end()
    assert end.code == 2
    assert "trainer.devices=2 and 1 process(es)" in end.last_line
    assert sorted({path.name for path in folder.iterdir()} - {"train.log"}) == [
        name for name in before if name != "train.log"
    ]


def test_more_ranks_than_processors_are_refused_and_leave_nothing(two, warm, tmp_path):
    words = (*two, "trainer.devices=1000", "global_batch_size=4000", f"run={tmp_path / 'run'}")
    end = TwoRanks(tmp_path / "run", *words, warm=warm).end()
    assert end.code == 2
    assert "trainer.devices=1000: this machine has" in end.last_line
    assert not list(tmp_path.iterdir())
