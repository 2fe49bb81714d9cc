"""Kill -9 and signals to the whole process group, on real processes."""

import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuopt.data import parallel_rows
from gpuopt.data.row_ledger import RowLedger
from gpuopt.errors import FaultError
from tests.data.draw_slowly import DOCUMENTS

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
# Where a system does not tell who sent a signal, SIGTERM from anybody ends a child.
tells_senders = pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal"
)
TERM_OF_ANYBODY = pytest.param(signal.SIGTERM, marks=tells_senders)
_started: list[subprocess.Popen] = []
# The loader's workers wait for work; a thread starts them, or the main thread.
LOAD = """
import sys, threading, time
import numpy as np
from gpuopt.data import ArrayImages, EvaluationSampler, ImageDataset, Split, WindowLoader
split = Split(["x"] * 40, np.zeros(40, np.int64), ArrayImages(np.zeros((40, 3, 8, 8), np.uint8)),
              np.arange(40))
loader = WindowLoader(ImageDataset(split, 0), EvaluationSampler(40, 4, rank=0, world_size=1),
                      num_workers=2)

def work():
    batches = iter(loader)
    next(batches)
    print("ready", flush=True)
    time.sleep(100)

if sys.argv[1] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""

# A child that first waits, then obeys, then works; the parent ends it by SIGTERM when told so.
OBEY = """
import hashlib, multiprocessing, sys, time
from gpuopt.data.child_process import ObeyParent, signals_held_back
context = multiprocessing.get_context("fork")
begin, obeys = context.Event(), context.Event()

def loop():
    while True:
        pass

work = {"sleep": lambda: time.sleep(1000), "loop": loop,
        "c": lambda: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)}[sys.argv[1]]

def child(obey):
    begin.wait()
    obey()
    obeys.set()
    work()

with signals_held_back():
    process = context.Process(target=child, args=(ObeyParent(),))
    process.start()
print(process.pid, flush=True)
input()
begin.set()
while process.is_alive() and not obeys.wait(0.1):
    pass
print("obeys" if obeys.is_set() else "dead", flush=True)
input()
process.terminate()
process.join(30)
print("ended with", process.exitcode, flush=True)
process.kill()
"""


def start(*arguments, cwd=None):
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,  # so that its id names the process group
    )
    _started.append(process)
    return process


@pytest.fixture(autouse=True)
def _end_all():
    """A failed test leaves no process behind."""
    yield
    while _started:
        process = _started.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
        process.stderr.close()


def members(group):
    """The living processes of a group, from /proc or, on other systems, from ps."""
    if Path("/proc/self/stat").exists():
        rows = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                pid, _, rest = file.read_text().partition(" ")
                state, _, its_group = rest.rpartition(")")[2].split()[:3]
                rows.append((pid, its_group, state))
    else:
        words = ["ps", "-eo", "pid=,pgid=,stat="]
        table = subprocess.run(words, capture_output=True, text=True, check=True)
        rows = [line.split() for line in table.stdout.splitlines()]
    return [int(pid) for pid, of, state in rows if int(of) == group and state[0] not in "ZX"]


def wait_until(condition, process=None, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def tell(process):
    process.stdin.write("\n")
    process.stdin.flush()


def saved_at(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def contents(where):
    return {
        str(path.relative_to(where)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(where.rglob("*.*"))
        if path.suffix in (".jpg", ".csv")
    }


def is_free(folder):
    with (folder / ".lock").open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def drawing(start_command, tmp_path):
    """A process that draws, with two workers that have begun."""
    process = start_command(tmp_path, "tests.data.draw_slowly", str(tmp_path))
    process.wait_until(lambda: len(list(tmp_path.glob("train/*.jpg"))) >= 10)
    assert len(members(process.pid)) == 3
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    where = tmp_path_factory.mktemp("whole")
    DOCUMENTS.draw(where)
    return contents(where)


def test_kill_9_leaves_no_orphan_and_no_lock_and_drawing_goes_on(tmp_path, drawing, whole):
    assert not is_free(tmp_path)
    drawing.send(signal.SIGKILL)
    drawing.end(20)
    wait_until(lambda: not members(drawing.pid), seconds=10)
    assert is_free(tmp_path)
    assert contents(tmp_path) != whole
    DOCUMENTS.draw(tmp_path)
    assert contents(tmp_path) == whole
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, TERM_OF_ANYBODY])
def test_a_signal_to_the_group_is_answered_by_the_parent_alone(tmp_path, drawing, whole, number):
    os.killpg(drawing.pid, number)
    end = drawing.end(60)
    assert end.code == 75
    assert end.stderr.endswith(f"stopped by {number:d}\n")
    assert end.stderr.count("stopped by") == 1
    assert "Traceback" not in end.stderr
    assert not members(drawing.pid)
    DOCUMENTS.draw(tmp_path)
    assert contents(tmp_path) == whole


@tells_senders
@pytest.mark.parametrize("work", ["sleep", "loop", "c"])
def test_a_child_ends_on_sigterm_from_its_parent_only(work):
    """This process is a stranger to the child, as a scheduler is."""
    parent = start("-c", OBEY, work)
    child = int(parent.stdout.readline() or parent.stderr.read())
    os.kill(child, signal.SIGTERM)  # before it obeys
    tell(parent)
    assert parent.stdout.readline() == "obeys\n"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(child, number)
        time.sleep(0.2)
    assert child in members(parent.pid)
    tell(parent)
    assert parent.stdout.readline() == "ended with 0\n"


@pytest.mark.parametrize("starter", ["main", "thread"])
def test_loader_workers_die_with_their_parent_and_ignore_signals_of_others(starter):
    process = start("-c", LOAD, starter)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    workers = [pid for pid in members(process.pid) if pid != process.pid]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGUSR2)
        if hasattr(signal, "sigwaitinfo"):
            os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    assert [pid for pid in members(process.pid) if pid != process.pid] == workers
    process.kill()
    process.communicate(timeout=20)
    wait_until(lambda: not members(process.pid), seconds=10)


@pytest.mark.parametrize("number", [signal.SIGINT, TERM_OF_ANYBODY])
def test_a_signal_to_the_group_while_training_saves_and_ends_with_75(
    tiny, start_command, tmp_path, number
):
    """As Ctrl-C, SLURM and timeout(1) send it; twice, so that the resumed run is met, too."""
    options = [word for word in tiny if not word.startswith("trainer.max_epochs")]
    options += ["num_workers=2", "trainer.max_epochs=50", "run=parts"]

    def stop(*words):
        return stop_training(start_command(tmp_path, "gpuopt.train", *words), tmp_path, number)

    assert "resuming from" not in stop(*options)
    assert "resuming from" in stop(*options, "resume=true")


def stop_training(process, folder, number):
    """Signal to the whole group once the run has saved; what it wrote to its standard error."""
    last = folder / "parts/checkpoints/last.ckpt"
    begun_with = saved_at(last)
    process.wait_until(lambda: saved_at(last) > begun_with, 90)
    assert len(members(process.pid)) >= 3
    before = saved_at(last)
    os.killpg(process.pid, number)
    end = process.end(60)
    assert end.code == 75, end.stderr
    assert "resume=" in end.last_line
    assert "Traceback" not in end.stderr
    assert "killed by signal" not in end.stderr
    assert saved_at(last) > before
    wait_until(lambda: not members(process.pid), seconds=10)
    return end.stderr


class Hanging:
    """A task that never ends for one file; slow, but steady for all others."""

    def __init__(self, name, pause_s):
        self.name, self.pause_s = name, pause_s

    def __call__(self, rows, paths):
        for path in paths:
            time.sleep(1000 if path.name == self.name else self.pause_s)
        return {}


def run_task(tmp_path, task, monkeypatch, count=40):
    monkeypatch.setattr(parallel_rows, "available_cpus", lambda: 2)
    monkeypatch.setattr(parallel_rows, "_CHUNK_ROWS", 10)
    paths = [Path(f"/images/{row:02d}.png") for row in range(count)]
    ledger = RowLedger(tmp_path / "ledger.json", count)
    options = {"title": "test", "save": ledger.save, "stuck_after_s": 1.0}
    parallel_rows.work_through(task, paths, ledger, **options)
    return ledger


def test_a_stuck_process_is_named_by_its_file_and_ended(tmp_path, monkeypatch):
    with pytest.raises(FaultError, match=r"/images/17\.png has not ended for 1 s") as caught:
        run_task(tmp_path, Hanging("17.png", 0.0), monkeypatch)
    assert "\n" not in str(caught.value)
    assert set(RowLedger(tmp_path / "ledger.json", 40).pending()) == set(range(10, 20))


def test_slow_files_are_not_stuck(tmp_path, monkeypatch):
    """A chunk takes longer than the limit, its single files do not."""
    assert run_task(tmp_path, Hanging("none", 0.15), monkeypatch, count=20).complete
