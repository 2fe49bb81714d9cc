import os

import torch

from gpuopt.diagnosis.cleanup import free_own_cache, held_memory
from gpuopt.hardware import DeviceProcess, DeviceReading

GIB = 2**30


class Card:
    index = 0

    def __init__(self, processes):
        self._processes = processes

    def read(self):
        return DeviceReading(
            0,
            "Stand-in",
            memory_total_bytes=8 * GIB,
            memory_used_bytes=3 * GIB,
            processes=self._processes,
        )


def test_without_a_gpu_nobody_holds_memory():
    found = held_memory([])
    assert found.verdict.startswith("No NVIDIA GPU")
    assert found.lines() == []


def test_other_processes_are_named_with_the_command_that_would_end_them():
    own = DeviceProcess(os.getpid(), "python", GIB)
    mine = DeviceProcess(os.getppid(), "python train.py", 2 * GIB)
    gone = DeviceProcess(2**22 + 5, None, None)
    found = held_memory([Card([own, mine, gone])])
    assert found.verdict == "2 other process(es) hold GPU memory; none was ended."
    first, second = found.lines()
    assert first.startswith(f"GPU 0: python train.py (pid {os.getppid()}) holds 2.00 GiB; ")
    assert f"kill {os.getppid()}" in first
    assert "not in this container" in second
    assert "kill" not in second
    (device,) = found.as_dict()["devices"]
    assert (device["used_bytes"], device["total_bytes"]) == (3 * GIB, 8 * GIB)


def test_another_users_process_needs_another_command(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (line,) = held_memory([Card([DeviceProcess(os.getppid(), "x", GIB)])]).lines()
    assert f"`sudo kill {os.getppid()}`" in line


def test_a_driver_that_does_not_tell_is_not_taken_for_no_process():
    assert "does not tell" in held_memory([Card(None)]).verdict
    assert held_memory([Card([])]).verdict == "No other process holds GPU memory."


def test_the_own_cache_is_given_back(monkeypatch):
    reserved = [3 * GIB]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: reserved[0])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: reserved.__setitem__(0, GIB))
    found = held_memory([Card([])])
    assert "2.00 GiB of this process's cache were freed" in found.verdict
    assert (found.devices[0].own_bytes, found.devices[0].freed_bytes) == (GIB, 2 * GIB)


def test_where_cuda_was_never_used_there_is_nothing_to_free():
    assert free_own_cache() == 0
