import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuopt.steps.compiling_process import CompilingProcess, compiler_words
from tests.steps.compiling_tasks import Task


@contextlib.contextmanager
def compiling(task, mode="default"):
    process = CompilingProcess(task, mode)
    try:
        yield process
    finally:
        process.end()


def wait(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def is_running(number):
    """Tell whether a process runs; one that has ended may still be listed, as a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_task_is_done_in_another_process_with_the_environment_of_this(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "the cache")
    place = tmp_path / "written"
    with compiling(Task("write", place), "max-autotune") as process:
        wait(lambda: process.is_done)
        assert process.fault() is None
    assert place.read_text() == "max-autotune the cache"


def test_what_fails_is_one_short_line():
    with compiling(Task("fail")) as process:
        wait(lambda: process.is_done)
        fault = process.fault()
    assert fault == "ValueError: no default kernel for that"


def test_memory_that_runs_out_is_called_so():
    with compiling(Task("run_out")) as process:
        wait(lambda: process.is_done)
        assert process.fault().startswith("memory ran out in the process that compiles")


def test_a_compiler_that_crashes_is_one_line():
    with compiling(Task("crash")) as process:
        wait(lambda: process.is_done)
        assert process.fault() == "the process that compiles was killed by signal 6"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_it_is_ended_with_the_compilers_that_it_has_started(tmp_path):
    place = tmp_path / "compiler"
    with compiling(Task("hang", place)) as process:
        wait(lambda: place.is_file() and place.read_text())
        assert not process.is_done
        number = int(place.read_text())
        assert is_running(number)
    wait(lambda: not is_running(number))
    process.end()  # once more does nothing


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path):
    place = tmp_path / "compiler"
    code = f"""
import time
from gpuopt.steps.compiling_process import CompilingProcess, compiler_words
from tests.steps.compiling_tasks import Task
process = CompilingProcess(Task("hang", {str(place)!r}), "default")
time.sleep(600)
"""
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
    try:
        wait(lambda: place.is_file() and place.read_text())
    finally:
        parent.kill()
        parent.wait()
    number = int(place.read_text())
    wait(lambda: not is_running(number))


def test_what_cannot_be_sent_is_an_error_and_leaves_no_process():
    task = Task("write")
    task.act = lambda: None
    with pytest.raises(Exception, match="pickle"):
        CompilingProcess(task, "default")


def test_an_error_that_names_another_is_worded_with_it():
    error = RuntimeError("backend='inductor' raised:\nValueError: no such kernel\nand a program")
    words = "RuntimeError: backend='inductor' raised: ValueError: no such kernel"
    assert compiler_words(error) == words
    assert compiler_words(ValueError()) == "ValueError: "
    assert len(compiler_words(ValueError("x" * 10_000))) <= 300
