import csv
import json
from dataclasses import replace

import pytest

from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.parallel import JobEnd
from gpuopt.session import sweep_jobs
from gpuopt.session.sweep_folder import Job, SweepFolder
from gpuopt.session.sweep_jobs import carry_out, conclude, ended, give_up, refuse, report
from gpuopt.session.sweep_table import sweep_row

JOB = Job(0, ("seed=1",), "running", duration_s=2.0)


@pytest.fixture
def sweep(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.start(["seed=1,2,3"], [["seed=1"], ["seed=2"], ["seed=3"]])
    return folder


def set_states(sweep, *states):
    for job, state in zip(sweep.jobs, states, strict=True):
        sweep.write_job(replace(job, state=state))


def table(sweep):
    with (sweep.path / "sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("end", "stop", "state", "reason"),
    [
        (JobEnd(0, "", "epoch 3", 1.5), False, "done", ""),
        (JobEnd(0, "", "epoch 3", 1.5), True, "done", ""),
        (JobEnd(2, "", "gpuopt train: no images", 1.5), False, "refused", "no images"),
        (JobEnd(3, "", "gpuopt train: disk full", 1.5), False, "failed", "disk full"),
        (JobEnd(1, "", "", 1.5), False, "failed", "exit code 1"),
        (JobEnd(75, "", "saved", 1.5), False, "stopped", "saved"),
        (JobEnd(75, "", "saved", 1.5), True, "stopped", "saved"),
        (
            JobEnd(75, "", "stopped by SIGINT; go on with resume=x", 1.5),
            True,
            "stopped",
            "by SIGINT",
        ),
        (JobEnd(0, "SIGTERM", "", 1.5), True, "stopped", "by SIGTERM"),
        (JobEnd(0, "SIGSEGV", "epoch 3", 1.5), False, "killed", "by SIGSEGV"),
        (JobEnd(0, "SIGKILL", "", 1.5), False, "killed", "by SIGKILL, as the system does"),
    ],
)
def test_every_end_is_told(end, stop, state, reason):
    job = ended(JOB, end, was_asked_to_stop=stop)
    assert job.state == state
    assert job.reason.startswith(reason)
    assert bool(job.reason) == (state != "done")
    assert "resume=" not in job.reason
    assert job.duration_s == 3.5  # all attempts
    assert job.exit_code == (None if end.signal_name else end.exit_code)


def test_the_table_is_rewritten_after_every_job(sweep, monkeypatch, capsys):
    seen = []

    def fake(command, folder, stop, *, prefix):
        seen.append((command[1:], [row["state"] for row in table(sweep)] if seen else []))
        (folder / "results.json").write_text(json.dumps({"state": "finished"}))
        return JobEnd(0, "", "", 1.0)

    monkeypatch.setattr(sweep_jobs, "run_job", fake)
    for job in sweep.jobs:
        assert not carry_out(sweep, job)
    folder = str(sweep.job_folder(1))
    assert seen[1][0] == ["-m", "gpuopt.train", f"resume='{folder}'"]
    assert seen[1][1] == ["done", "waiting", "waiting"]
    assert seen[2][1] == ["done", "done", "waiting"]
    assert [row["state"] for row in table(sweep)] == ["done"] * 3
    assert (sweep.path / "sweep.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("samples/s") == 3


def test_a_refused_job_is_a_row_with_its_reason(sweep, capsys):
    refuse(sweep, sweep.jobs[1], "seed=2 is an unlucky one")
    assert [(row["state"], row["reason"]) for row in table(sweep)] == [
        ("waiting", ""),
        ("refused", "seed=2 is an unlucky one"),
        ("waiting", ""),
    ]
    assert "[1] refused: seed=2 is an unlucky one" in capsys.readouterr().err


def test_jobs_that_a_launcher_lost_have_failed(sweep):
    set_states(sweep, "done", "running", "waiting")
    give_up(sweep, "the node went away")
    assert [job.state for job in sweep.jobs] == ["done", "failed", "failed"]
    assert sweep.jobs[2].reason == "the node went away"


def test_one_job_that_a_launcher_lost_has_failed_alone(sweep):
    set_states(sweep, "running", "running", "waiting")
    give_up(sweep, "out of memory", only=1)
    assert [job.state for job in sweep.jobs] == ["running", "failed", "waiting"]


@pytest.mark.parametrize(
    ("states", "error", "message"),
    [
        (("refused", "refused", "refused"), InputError, r"all 3 jobs refused: not so"),
        (("done", "refused", "done"), FaultError, r"2 of 3 jobs done, 1 refused.*sweep.csv$"),
        (("done", "killed", "failed"), FaultError, r"1 failed, 1 killed.*-m resume="),
        (("done", "stopped", "waiting"), PreemptedError, r"1 stopped, 1 waiting.*-m resume="),
    ],
)
def test_a_sweep_ends_in_one_line(sweep, states, error, message):
    for job, state in zip(sweep.jobs, states, strict=True):
        sweep.write_job(replace(job, state=state, reason="not so"))
    with pytest.raises(error, match=message):
        conclude(sweep)


def test_jobs_that_are_refused_for_several_reasons_are_counted(sweep):
    for job in sweep.jobs:
        sweep.write_job(replace(job, state="refused", reason=f"{job.number} is too much"))
    with pytest.raises(InputError, match=r"0 of 3 jobs done, 3 refused; reasons in"):
        conclude(sweep)


def test_a_sweep_whose_jobs_are_all_done_ends_well(sweep, capsys):
    set_states(sweep, "done", "done", "done")
    conclude(sweep)
    assert "3 jobs done" in capsys.readouterr().out


def test_a_row_is_filled_from_the_results():
    results = {
        "plan": {"global_batch_size": 64, "micro_batch_size": 8},
        "training": {"samples_per_second": 99.5, "peak_memory_gib": 1.5},
        "metrics": {
            "tta": "essential",
            "macro_f1": {"value": 0.5},
            "macro_f1_tta": {"value": 0.6},
        },
    }
    job = Job(3, ("micro_batch_size=auto", "seed=1"), "done", duration_s=4.0)
    row = sweep_row(job, ["seed"], {"micro_batch_size": "auto"}, results)
    assert (row.global_batch_size, row.micro_batch_size) == (64, 8)
    assert (row.samples_per_second, row.peak_memory_gib) == (99.5, 1.5)
    assert (row.f1, row.f1_tta, row.duration_s) == (0.5, 0.6, 4.0)
    assert row.label == "seed=1"


def test_the_memory_that_a_job_measured_on_a_card_is_in_every_file_of_the_sweep(sweep, capsys):
    """Three jobs: on a card, on a CPU, which measures none, and one that has not begun."""
    for number, training in enumerate(({"peak_memory_gib": 3.25}, {"samples_per_second": 9.5})):
        content = {"state": "finished", "training": training}
        sweep.write_job(replace(sweep.jobs[number], state="done"))
        (sweep.job_folder(number) / "results.json").write_text(json.dumps(content))
    report(sweep)
    assert [row["peak_memory_gib"] for row in table(sweep)] == ["3.25", "", ""]
    printed = capsys.readouterr().out
    assert "peak GiB" in printed
    assert "3.25" in printed


def test_a_row_without_results_has_what_was_asked_for():
    job = Job(0, ("micro_batch_size=8", "global_batch_size=²"), "refused", "bad")
    row = sweep_row(job, ["micro_batch_size"], {}, {})
    assert (row.micro_batch_size, row.global_batch_size) == (8, "²")
    assert row.samples_per_second is None
    assert row.f1 is None
    job = Job(0, ("data.root='사진'",), "waiting", "")
    assert sweep_row(job, ["data.root"], {}, {}).varied == {"data.root": "사진"}
    without_tta = {"metrics": {"tta": "none", "macro_f1_tta": {"value": 0.6}}}
    assert sweep_row(job, [], {}, without_tta).f1_tta is None


def test_the_state_of_a_sweep_is_printed(sweep, capsys):
    report(sweep)
    assert capsys.readouterr().out.count("waiting") == 3
