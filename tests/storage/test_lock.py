import fcntl
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import pytest

from gpuopt.errors import InputError
from gpuopt.storage import FolderLock, wait_for_folder

_HOLD = """
import sys, time
from pathlib import Path
from gpuopt.storage import FolderLock
lock = FolderLock(Path(sys.argv[1])); lock.acquire()
print("held", flush=True); time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_living_owner_is_named(tmp_path, holder):
    with pytest.raises(InputError, match=f"in use by process {holder.pid} on "):
        FolderLock(tmp_path).acquire()


def test_a_dead_owner_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    with FolderLock(tmp_path):
        pass


def test_it_can_be_taken_again_after_release(tmp_path):
    with FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path), pytest.raises(InputError, match="in use"):
        FolderLock(tmp_path).acquire()


def test_an_unreadable_owner_is_still_refused(tmp_path):
    with FolderLock(tmp_path):
        (tmp_path / ".lock").write_text("not json")
        with pytest.raises(InputError, match="another process"):
            FolderLock(tmp_path).acquire()


def _live(alive, go_on):
    alive.set()
    go_on.wait(60)


def test_a_child_does_not_keep_the_lock(tmp_path):
    """Nor does it give it back while the parent lives."""
    context = multiprocessing.get_context("fork")
    alive, go_on = context.Event(), context.Event()
    child = context.Process(target=_live, args=(alive, go_on), daemon=True)
    with FolderLock(tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
            child.start()
        assert alive.wait(30)
        with pytest.raises(InputError, match="in use"):
            FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path):
        assert child.is_alive()
    go_on.set()
    child.join()
    assert child.exitcode == 0


def test_waiting_ends_with_the_owner_and_names_it_once(tmp_path, holder, caplog):
    entered = threading.Event()

    def enter():
        with wait_for_folder(tmp_path):
            entered.set()

    with caplog.at_level(logging.INFO, logger="gpuopt"):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.3)
        (message,) = caplog.messages
        assert f"waiting for process {holder.pid} on " in message
        holder.kill()
        thread.join(30)
    assert entered.is_set()
    assert len(caplog.messages) == 1
    with FolderLock(tmp_path):
        pass


def _fail_within(folder):
    with wait_for_folder(folder):
        with pytest.raises(InputError, match=f"process {os.getpid()}"):
            FolderLock(folder).acquire()
        raise ZeroDivisionError


def test_a_waiting_lock_refuses_others_and_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError):
        _fail_within(tmp_path)
    with (tmp_path / ".lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_full_disk_takes_the_name_but_not_the_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with FolderLock(tmp_path), pytest.raises(InputError, match="another process"):
        FolderLock(tmp_path).acquire()
