import subprocess
import sys

import pytest

from gpuopt.errors import InputError
from gpuopt.storage import FolderLock

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
