"""What happens to the jobs of a sweep: started, refused, ended, all told in one last line."""

import sys
from collections import Counter
from dataclasses import replace

from gpuopt.errors import FaultError, GpuoptError, InputError, PreemptedError
from gpuopt.override_words import quoted
from gpuopt.parallel import JobEnd, StopRequest, run_job
from gpuopt.session.sweep_folder import Job, SweepFolder, from_here

__all__ = ["carry_out", "conclude", "ended", "give_up", "refuse", "report", "stopped"]

_STATES = {0: "done", InputError.exit_code: "refused", PreemptedError.exit_code: "stopped"}


def carry_out(sweep: SweepFolder, job: Job, *, debug: bool = False) -> bool:
    """Run a job, whose folder holds its configuration, in a process of its own.

    Args:
        sweep: The sweep.
        job: Starts, or goes on with its newest checkpoint.
        debug: The job shows traces.

    Returns:
        Whether this process was asked to stop meanwhile; the job has then ended.
    """
    sweep.write_job(replace(job, state="running", reason=""))
    folder = sweep.job_folder(job.number)
    command = [sys.executable, "-m", "gpuopt.train", f"resume={quoted(str(folder))}"]
    with StopRequest() as stop:
        end = run_job(
            [*command, "debug=true"] if debug else command,
            folder,
            stop,
            prefix=f"[{job.number}] ",
        )
        after = ended(job, end, was_asked_to_stop=stop.received is not None)
        sweep.write_job(after)
        report(sweep)
    return stop.received is not None and after.state != "done"


def ended(job: Job, end: JobEnd, *, was_asked_to_stop: bool) -> Job:
    """Say how a job stands after its process has ended.

    A job that did not end well while the sweep was asked to stop was stopped, whatever it says:
    before training it has no checkpoint to save and dies of the signal.
    """
    state = "killed" if end.signal_name else _STATES.get(end.exit_code, "failed")
    if was_asked_to_stop and state != "done":
        state = "stopped"
    reason = end.last_line.removeprefix("gpuopt train: ")
    if state == "stopped":  # it goes on with the sweep
        reason = reason.removeprefix("stopped ").partition("; go on with resume=")[0]
    if end.signal_name:
        reason = f"by {end.signal_name}"
        if end.signal_name == "SIGKILL":
            reason += ", as the system does when the host memory is full"
    elif not reason:
        reason = f"exit code {end.exit_code}"
    return replace(
        job,
        state=state,
        reason="" if state == "done" else reason,
        exit_code=None if end.signal_name else end.exit_code,
        duration_s=round((job.duration_s or 0.0) + end.duration_s, 3),
    )


def refuse(sweep: SweepFolder, job: Job, reason: str) -> None:
    """Note that a job cannot be started."""
    sys.stderr.write(f"[{job.number}] refused: {reason}\n")
    sweep.write_job(replace(job, state="refused", reason=reason, exit_code=InputError.exit_code))
    report(sweep)


def give_up(sweep: SweepFolder, reason: str, *, only: int | None = None) -> None:
    """Note that another launcher lost the jobs that have not ended, or `only` one of them."""
    for job in sweep.jobs:
        if job.state in ("waiting", "running") and only in (None, job.number):
            sweep.write_job(replace(job, state="failed", reason=reason))


def report(sweep: SweepFolder) -> None:
    """Rewrite the table's files and print it."""
    # Only now: drawing takes half a second to import, and bad input ends before.
    from gpuopt.report import sweep_table
    from gpuopt.session.console import make_console
    from gpuopt.session.sweep_table import write_sweep_files

    rows = write_sweep_files(sweep)
    make_console().print(sweep_table(rows, f"Sweep {sweep.path.name}"))


def stopped(sweep: SweepFolder) -> PreemptedError:
    """Word the end of a sweep that was asked to stop."""
    done, count = _count(sweep)["done"], len(sweep.jobs)
    return PreemptedError(
        f"sweep stopped, {done} of {count} jobs done; go on with -m resume={from_here(sweep.path)}"
    )


def conclude(sweep: SweepFolder) -> None:
    """End well when every job is done.

    Raises:
        PreemptedError: When some job was stopped and may go on.
        InputError: When all jobs were refused.
        FaultError: When some job did not end well.
    """
    error = _ending(sweep)
    if error is not None:
        raise error
    sys.stdout.write(f"{len(sweep.jobs)} jobs done; table in {from_here(sweep.path)}/sweep.csv\n")


def _ending(sweep: SweepFolder) -> GpuoptError | None:
    states = _count(sweep)
    done, count = states.pop("done", 0), len(sweep.jobs)
    if not states:
        return None
    others = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    place = from_here(sweep.path)
    text = f"{done} of {count} jobs done, {others}; reasons in {place}/sweep.csv"
    if states["refused"] == count:
        reasons = {job.reason for job in sweep.jobs}
        is_shared = len(reasons) == 1  # such as a key that does not exist
        return InputError(f"all {count} jobs refused: {reasons.pop()}" if is_shared else text)
    if states["refused"] + done == count:
        return FaultError(text)
    again = f"; try these again with -m resume={place}"
    return (PreemptedError if states["stopped"] else FaultError)(text + again)


def _count(sweep: SweepFolder) -> Counter[str]:
    return Counter(job.state for job in sweep.jobs)
