"""Two ranks of which one runs out of memory: none waits, and the result stays the same."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpuopt.errors import FaultError

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(rank, port, folder, device):
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    names = {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    elastic = {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
    own = {key: str(value) for key, value in (places | names | elastic).items()}
    command = [sys.executable, "-m", "tests.callbacks.oom_ranks", str(folder), device]
    with (folder / f"rank{rank}.log").open("w") as log:
        return subprocess.Popen(
            command, env={**os.environ, **own}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )


two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, two_gpus])])
def test_a_rank_that_runs_out_of_memory_recovers_alone(tmp_path, device):
    port = free_port()
    ranks = [start(rank, port, tmp_path, device) for rank in (0, 1)]
    try:
        last = ranks[1].wait(timeout=240)
        # NCCL waits on the device, where nothing tells it; `gpuopt train` ends it then.
        first = 17 if device == "cuda" else ranks[0].wait(timeout=60)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    said = [(tmp_path / f"rank{rank}.log").read_text("utf-8") for rank in (0, 1)]
    # In the end the second rank gives up, and the first one notices that it is gone.
    assert (first, last) == (17, FaultError.exit_code), "\n".join(said)
    assert "with 1 sample at step 2; the last checkpoint stands; who holds it" in said[1]
    assert json.loads((tmp_path / "out_of_memory.rank1.json").read_text())["step"] == 2
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for name, largest in found.items():
            if name.startswith(("no failure", "events")):
                assert largest == 0.0, name
            else:
                assert largest < 1e-12, name
