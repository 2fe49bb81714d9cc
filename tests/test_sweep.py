"""The search by Optuna, with jobs that only pretend to train."""

import csv
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from gpuopt import sweep as command
from gpuopt.errors import InputError
from gpuopt.parallel import JobEnd
from gpuopt.session import sweep_jobs
from gpuopt.session.sweep_words import prepare_sweep

BEST_RATE = 1e-3
SPACE = ("model.learning_rate=tag(log, interval(1e-4, 1e-2))", "micro_batch_size=16,32")


@pytest.fixture
def search(tmp_path, monkeypatch, tiny):
    """Run `gpuopt sweep` here; the score is best at one learning rate."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    monkeypatch.chdir(tmp_path)
    started, ends = [], {}

    def pretend(command, folder, stop, *, prefix):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        started.append(int(folder.name))
        end = ends.pop(int(folder.name), None)
        if end is not None:
            if end.exit_code == 75:
                os.kill(os.getpid(), signal.SIGINT)
            return end
        score = 1 - abs(config["model"]["learning_rate"] - BEST_RATE)
        results = {"state": "finished", "training": {"best_validation_score": score}}
        (folder / "results.json").write_text(json.dumps(results))
        return JobEnd(0, "", "", 1.0)

    def run(*words):
        started.clear()
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["sweep", *words])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code, list(started)

    monkeypatch.setattr(sweep_jobs, "run_job", pretend)
    # Hydra would switch off the loggers of this process, which other tests listen to.
    for module in ("hydra._internal.hydra", "hydra.core.utils"):
        monkeypatch.setattr(f"{module}.configure_log", lambda *_: None)
    run.ends = ends
    return run


def table():
    with Path("S/sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_search_stays_in_its_space_and_names_the_best(search, tiny, capsys):
    code, started = search(*tiny, *SPACE, "hydra.sweeper.n_trials=8", "hydra.sweep.dir=S")
    assert (code, started) == (0, list(range(8)))
    rates = [float(row["model.learning_rate"]) for row in table()]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert len(set(rates)) == 8
    assert {row["micro_batch_size"] for row in table()} <= {"16", "32"}
    best = min(range(8), key=lambda number: abs(rates[number] - BEST_RATE))
    assert f"best: job {best}, model.learning_rate={rates[best]}" in capsys.readouterr().out


def test_a_search_goes_on_with_the_job_that_was_stopped(search, tiny, capsys):
    search.ends[2] = JobEnd(75, "", "saved", 1.0)
    words = (*tiny, *SPACE, "hydra.sweeper.n_trials=5", "hydra.sweep.dir=S")
    assert search(*words) == (75, [0, 1, 2])
    assert "go on with -m resume=S" in capsys.readouterr().err
    before = [row["model.learning_rate"] for row in table()]
    assert search("resume=S") == (0, [2, 3, 4])
    rates = [row["model.learning_rate"] for row in table()]
    assert rates[:3] == before
    assert len(set(rates)) == 5
    assert search("resume=S") == (0, [])


def test_a_trial_that_fails_is_a_row_and_the_search_goes_on(search, tiny):
    search.ends[0] = JobEnd(0, "SIGKILL", "", 1.0)
    words = (*tiny, *SPACE, "hydra.sweeper.n_trials=3", "hydra.sweep.dir=S")
    assert search(*words) == (3, [0, 1, 2])
    assert [row["state"] for row in table()] == ["killed", "done", "done"]
    assert search("resume=S") == (3, [])  # a failed trial is an answer, too


def test_whole_numbers_stay_whole(search, tiny):
    words = (*tiny, "seed=int(interval(3,5))", "hydra.sweeper.n_trials=4", "hydra.sweep.dir=S")
    assert search(*words)[0] == 0
    seeds = [yaml.safe_load(Path(f"S/{n}/config.yaml").read_text())["seed"] for n in range(4)]
    assert set(seeds) <= {3, 4, 5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("seed=1",), "no key has several values"),
        (("seed=tag(log, interval(0, 5))",), "seed="),
        ((*SPACE, "hydra.sweeper.n_trials=0"), "hydra.sweeper.n_trials=0"),
        ((*SPACE, "hydra.sweeper.n_trials=many"), "hydra.sweeper.n_trials=many"),
        ((*SPACE, "hydra.sweeper.direction=up"), "maximize or minimize"),
    ],
)
def test_what_cannot_be_searched_is_refused(search, tiny, words, message, capsys):
    assert search(*tiny, *words) == (2, [])
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(Path().glob("outputs/sweeps/*"))


def test_without_optuna_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("pip install 'gpuopt[optuna]'")):
        prepare_sweep(["-m", "hydra/sweeper=optuna", "seed=1,2"])
    assert not list(tmp_path.iterdir())
