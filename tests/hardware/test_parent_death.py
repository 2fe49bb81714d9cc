import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "ready\\n"
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
CHILD = """
import signal, time
from gpuopt.hardware.parent_death import signal_at_parents_death
assert signal_at_parents_death(signal.SIGKILL)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's kernel does it")
def test_a_process_ends_with_its_parent():
    started = subprocess.run(
        [sys.executable, "-c", PARENT, CHILD], capture_output=True, text=True, timeout=60
    )
    pid = int(started.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return  # ended, and not yet asked for
        time.sleep(0.1)
    pytest.fail("it outlived its parent")


def test_other_systems_cannot(monkeypatch):
    import importlib

    from gpuopt.hardware import parent_death

    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        assert not importlib.reload(parent_death).signal_at_parents_death(9)
    finally:
        monkeypatch.undo()
        importlib.reload(parent_death)
