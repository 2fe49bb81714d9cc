import ctypes
import multiprocessing
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from gpuopt.memory.process_memory import (
    live_tensor_bytes,
    live_tensors,
    resident_bytes,
    storage_bytes,
    worker_bytes,
)

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_this_process_grows_with_what_it_holds():
    ctypes.CDLL(None).malloc_trim(0)  # pages that were freed would be taken again
    before = resident_bytes()
    held = np.ones(64 * MIB, np.uint8)
    assert resident_bytes() - before > 48 * MIB
    assert held.sum() == 64 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_workers_counts_while_they_live_and_that_of_other_children_never(tmp_path):
    before = worker_bytes()
    program = f"held = bytearray(b'1') * {64 * MIB}; open({{!r}}, 'w').close(); input()"
    other, own = (program.format(str(tmp_path / name)) for name in ("other", "own"))
    worker = multiprocessing.get_context("spawn").Process(
        target=exec, args=(own.replace("input()", "import time; time.sleep(60)"),)
    )
    with subprocess.Popen([sys.executable, "-c", other], stdin=subprocess.PIPE) as child:
        worker.start()
        try:
            while not all((tmp_path / name).exists() for name in ("other", "own")):
                assert worker.is_alive()
                time.sleep(0.01)
            assert 60 * MIB < worker_bytes() - before < 120 * MIB
        finally:
            worker.kill()
            worker.join()
            child.communicate(b"\n")
    assert worker_bytes() <= before


def test_tensors_that_share_a_storage_count_once():
    before = live_tensor_bytes()
    tensor = torch.zeros(MIB)
    views = [tensor[:10], tensor.reshape(2, -1)]
    assert live_tensor_bytes() - before == 4 * MIB
    del tensor, views
    assert live_tensor_bytes() == before


def test_tensors_without_a_storage_are_left_out():
    odd = [torch.zeros(3, device="meta"), torch.eye(3).to_sparse()]
    known = live_tensors()
    assert not any(one is tensor for one in odd for tensor in known)
    assert storage_bytes([torch.zeros(5)], "cuda") == {}
