import json
import os
from dataclasses import replace

import pytest

from gpuopt.errors import InputError
from gpuopt.session.sweep_folder import SweepFolder, newest_sweep, swept_settings

JOBS = [["gpu=cpu", "seed=1", "data=digits"], ["gpu=cpu", "seed=2", "data=digits"]]


@pytest.fixture
def sweep(tmp_path):
    folder = SweepFolder(tmp_path / "sweeps" / "first")
    folder.start(["gpu=cpu", "seed=1,2", "data=digits"], JOBS)
    return folder


def test_jobs_wait_until_something_is_known_of_them(sweep):
    assert [job.state for job in sweep.jobs] == ["waiting", "waiting"]
    sweep.write_job(replace(sweep.jobs[1], state="killed", reason="by SIGKILL", duration_s=2.5))
    again = SweepFolder(sweep.path)
    assert [job.state for job in again.jobs] == ["waiting", "killed"]
    assert (again.jobs[1].reason, again.jobs[1].duration_s) == ("by SIGKILL", 2.5)
    assert again.words == ["gpu=cpu", "seed=1,2", "data=digits"]


def test_results_count_more_than_a_state_that_nobody_could_update(sweep):
    sweep.write_job(replace(sweep.jobs[0], state="running"))
    (sweep.job_folder(0) / "results.json").write_text(json.dumps({"state": "finished"}))
    assert sweep.jobs[0].state == "done"


def test_only_keys_that_differ_are_varied(sweep):
    assert sweep.varied_keys() == ["seed"]


def test_a_run_of_a_sweep_knows_what_varies(sweep):
    assert swept_settings(sweep.job_folder(1)) == {"seed": 2}
    assert swept_settings(sweep.path) == {}
    assert swept_settings(sweep.path / "7") == {}
    assert swept_settings(sweep.path / "²") == {}  # a digit that is no number


def test_text_stays_text(tmp_path):
    sweep = SweepFolder(tmp_path)
    sweep.start(
        [], [["model=vit_base", "a.b=[1", "c=2024-99-99"], ["model=resnet50", "a.b=true", "c=1"]]
    )
    assert swept_settings(tmp_path / "0") == {"model": "vit_base", "a.b": "[1", "c": "2024-99-99"}
    assert swept_settings(tmp_path / "1") == {"model": "resnet50", "a.b": True, "c": 1}


@pytest.mark.parametrize(
    "content", ["", "[1, 2]", "words: 3\njobs: []", "words: [", "\x00", "\xff"]
)
def test_a_damaged_sweep_is_refused(tmp_path, content):
    (tmp_path / "sweep.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"sweep.yaml"):
        _ = SweepFolder(tmp_path).jobs


def test_another_folder_is_no_sweep(tmp_path):
    with pytest.raises(InputError, match="is not a sweep"):
        _ = SweepFolder(tmp_path).words


def test_damaged_records_of_a_job_count_as_none(sweep):
    sweep.write_job(replace(sweep.jobs[0], state="done"))
    (sweep.job_folder(0) / "job.json").write_text("{")
    (sweep.job_folder(0) / "config.yaml").write_text("a: [")
    assert sweep.jobs[0].state == "waiting"
    assert sweep.settings(0) == {}


def test_the_newest_sweep_with_the_same_words_is_found(sweep):
    root = sweep.path.parent
    second, damaged = SweepFolder(root / "second"), root / "third"
    second.start(["seed=3,4"], [["seed=3"], ["seed=4"]])
    damaged.mkdir()
    (damaged / "sweep.yaml").write_text("")
    os.utime(sweep.path / "sweep.yaml", (1, 1))
    os.utime(second.path / "sweep.yaml", (2, 2))
    assert newest_sweep(root).path == damaged
    assert newest_sweep(root, ["seed=3,4"]).path == second.path
    assert newest_sweep(root, sweep.words).path == sweep.path
    with pytest.raises(InputError, match="no sweep of these settings"):
        newest_sweep(root, ["seed=5,6"])
    with pytest.raises(InputError, match="there is no sweep"):
        newest_sweep(root / "nowhere")
