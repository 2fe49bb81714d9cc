"""Jobs of a sweep and folds of a run that each train with two ranks."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from gpuopt.storage.checkpoint import read_checkpoint
from tests.faults.commands import Command
from tests.parallel.conftest import LIMIT_S, TwoRanks, kill

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]

OPTIONS = (
    "folds=2",
    "data.test_ratio=0.7",
    "micro_batch_size=8",
    "global_batch_size=32",
    "trainer.max_epochs=2",
    "model.drop_rate=0.2",
    "callbacks.checkpoint.every_n_steps=2",
)


@pytest.fixture(scope="module")
def sweep(two, warm, tmp_path_factory):
    """A sweep over the folds of a run: each job trains one of them with two ranks."""
    home = tmp_path_factory.mktemp("sweep")
    words = (*two, *OPTIONS, "logger=none", "fold=0,1", "-m", "hydra.sweep.dir=S")
    end = Command("gpuopt.train", *words, cwd=home, warm=warm, children=2).end(2 * LIMIT_S)
    assert end.code == 0, end.stderr
    return home


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def same_weights(left, right):
    files = [read_checkpoint(folder / "checkpoints/last.ckpt") for folder in (left, right)]
    states = [file["state_dict"] for file in files]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_two_jobs_of_two_ranks_are_two_folders_and_two_rows(sweep):
    rows = read(sweep / "S/sweep.csv")
    assert [(row["job"], row["fold"], row["state"]) for row in rows] == [
        ("0", "0", "done"),
        ("1", "1", "done"),
    ]
    for row in rows:
        assert (row["micro_batch_size"], row["global_batch_size"]) == ("8", "32")
        assert min(float(row[key]) for key in ("samples_per_second", "duration_s", "f1")) > 0
        assert row["peak_memory_gib"] == ""  # a CPU has none
    names = {path.name for path in (sweep / "S").iterdir()}
    assert names == {"0", "1", ".lock", "sweep.yaml", "sweep.csv", "sweep.png"}
    assert [path.name for path in sweep.iterdir()] == ["S"]
    ranks = sorted(str(path.relative_to(sweep / "S")) for path in sweep.rglob("train.rank1.log"))
    assert ranks == ["0/fold_0/train.rank1.log", "1/fold_1/train.rank1.log"]


def test_folds_of_two_ranks_go_on_where_a_rank_was_killed_in_the_second(sweep, warm, tmp_path):
    """The first fold is there; the second one is trained, killed, resumed, and the same."""
    run = Path(shutil.copytree(sweep / "S/0", tmp_path / "run"))
    words = (f"resume={run}", "fold=null")
    first = (run / "fold_0/results.json").stat().st_mtime_ns
    killed = TwoRanks(run / "fold_1", *words, warm=warm)
    killed.wait_for_a_save()
    kill(killed.ranks()[1])
    end = killed.end()
    assert end.code == 3
    assert "was killed by SIGKILL" in end.last_line
    assert end.last_line.endswith(f"go on with resume={run}")

    end = TwoRanks(run / "fold_1", *words, warm=warm).end()
    assert end.code == 0, end.stderr
    assert "resuming from" in end.stderr
    assert (run / "fold_0/results.json").stat().st_mtime_ns == first
    assert same_weights(run / "fold_1", sweep / "S/1/fold_1")
    rows, tested = read(run / "out_of_fold.csv"), read(run / "predictions.csv")
    everything = {f"digit_{number:04d}" for number in range(1797)}
    assert sorted(row["id"] for row in rows) == sorted(everything - {row["id"] for row in tested})
    assert {row["fold"] for row in rows} == {"0", "1"}
    results = json.loads((run / "results.json").read_text())
    assert (results["state"], results["plan"]["devices"]) == ("finished", 2)
    alone = json.loads((sweep / "S/1/fold_1/results.json").read_text())
    again = json.loads((run / "fold_1/results.json").read_text())
    assert again["metrics"] == alone["metrics"]
