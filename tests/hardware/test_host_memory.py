import platform
import subprocess
import sys

import pytest

from gpuopt.hardware import give_back_freed_memory, host_memory, keep_freed_memory

# Two blocks of 48 MiB, as activations are: in use, freed, and in use again.
FAULTS = """
import ctypes, resource, sys
import gpuopt.hardware as hardware
assert "torch" not in sys.modules
if sys.argv[1] == "keep":
    assert hardware.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, size = [ctypes.c_void_p], 48 << 20

def step():
    blocks = [libc.malloc(size) for _ in range(2)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4)
"""
PAGES = 2 * (48 << 20) // 4096


def faults(choice):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, choice],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_step_finds_its_pages_again():
    assert faults("keep") < PAGES / 100 < faults("default")


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def load(name):
        raise error

    monkeypatch.setattr(host_memory.ctypes, "CDLL", load)
    assert not keep_freed_memory()
    assert not give_back_freed_memory()


GIVING_BACK = """
import ctypes
import gpuopt.hardware as hardware
from gpuopt.memory.process_memory import resident_bytes
if {keep}:
    hardware.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, size = [ctypes.c_void_p], 1 << 16
blocks = [libc.malloc(size) for _ in range(1600)]
for block in blocks:
    ctypes.memset(block, 1, size)
for block in blocks[:-1]:
    libc.free(block)
held = resident_bytes()
assert hardware.give_back_freed_memory()
print((held - resident_bytes()) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("keep", [False, True])
def test_freed_pages_below_one_in_use_go_back_when_asked(keep):
    code = GIVING_BACK.format(keep=keep)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) > 90
