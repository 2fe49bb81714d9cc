import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from gpuopt.parallel import StopRequest, run_job


def program(code):
    return [sys.executable, "-c", code]


def run(code, path, **options):
    with StopRequest() as stop:
        return run_job(program(code), path, stop, **options)


def test_exit_code_and_last_line_of_stderr_are_told(tmp_path):
    code = "import sys; print('out'); print('first\\nlast \\n', file=sys.stderr); sys.exit(4)"
    end = run(code, tmp_path)
    assert (end.exit_code, end.signal_name, end.last_line) == (4, "", "last")
    assert end.duration_s > 0


def test_a_killed_job_leaves_its_parent_alive(tmp_path):
    end = run("import os; os.kill(os.getpid(), 9)", tmp_path)
    assert (end.exit_code, end.signal_name, end.last_line) == (0, "SIGKILL", "")


def test_output_goes_to_the_log_and_with_a_prefix_to_the_terminal(tmp_path, capsys):
    (tmp_path / "stdout.log").write_text("earlier\n")
    run("import sys; print('a\\nb'); sys.stderr.write('c')", tmp_path, prefix="[3] ")
    shown = capsys.readouterr()
    assert shown.out == "[3] a\n[3] b\n"
    assert shown.err == "[3] c\n"
    assert (tmp_path / "stdout.log").read_text() == "earlier\na\nb\n"
    assert (tmp_path / "stderr.log").read_text() == "c"


def test_a_closed_terminal_does_not_stop_a_job(tmp_path, monkeypatch):
    stream = Path(os.devnull).open("w")  # noqa: SIM115
    stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    code = "for _ in range(50000): print('a line that has to go somewhere')"
    assert run(code, tmp_path).exit_code == 0
    assert (tmp_path / "stdout.log").stat().st_size > 1e6


WAITING = """
import signal, sys, time
def stop(number, frame):
    print("asked by", number, file=sys.stderr)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
open(sys.argv[1], "w").close()
time.sleep(60)
sys.exit(1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_job_once_and_waits_for_it(tmp_path, number):
    ready = tmp_path / "ready"

    def ask():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    asking = threading.Thread(target=ask)
    with StopRequest() as stop:
        asking.start()
        end = run_job([*program(WAITING), str(ready)], tmp_path, stop)
    asking.join()
    assert stop.received == number
    assert (end.exit_code, end.last_line) == (75, f"asked by {int(number)}")
    assert signal.getsignal(number) is before


def test_a_signal_before_the_start_is_passed_on(tmp_path):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        end = run_job(program("import time; time.sleep(60)"), tmp_path, stop)
    assert end.signal_name == "SIGTERM"


def test_a_request_that_a_launcher_answers_is_answered_when_the_job_has_saved(tmp_path):
    """submitit asks SLURM to start the task again, and ends it."""
    marked = WAITING.replace("signal.SIGTERM, stop", "signal.SIGUSR2, stop")
    ready, answered = tmp_path / "ready", []

    def ask():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda number, frame: answered.append(number))
    asking = threading.Thread(target=ask)
    try:
        with StopRequest() as stop:
            asking.start()
            end = run_job([*program(marked), str(ready)], tmp_path, stop)
            assert not answered
        assert answered == [signal.SIGUSR2]
    finally:
        asking.join()
        signal.signal(signal.SIGUSR2, before)
    assert (end.exit_code, stop.received) == (75, signal.SIGUSR2)


def test_a_signal_that_nobody_answers_is_left_alone():
    before = signal.getsignal(signal.SIGUSR2)
    with StopRequest():
        assert signal.getsignal(signal.SIGUSR2) is before


def test_a_job_is_not_in_the_group_that_ctrl_c_reaches(tmp_path, capsys):
    run("import os; print(os.getpgid(0) == os.getpid())", tmp_path)
    assert capsys.readouterr().out == "True\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child")
def test_a_job_is_asked_to_stop_when_its_parent_is_killed(tmp_path):
    ready = tmp_path / "ready"
    parent = f"""
import sys
from pathlib import Path
from gpuopt.parallel import StopRequest, run_job
with StopRequest() as stop:
    run_job([sys.executable, "-c", {WAITING!r}, {str(ready)!r}], Path({str(tmp_path)!r}), stop)
"""
    marked = WAITING.replace("sys.exit(75)", f"open({str(tmp_path / 'asked')!r}, 'w').close()")
    parent = parent.replace(repr(WAITING), repr(marked))
    pid = os.spawnv(os.P_NOWAIT, sys.executable, program(parent))
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while not (tmp_path / "asked").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "asked").exists()
