"""Two ranks of which one runs out of memory: none waits, and the result stays the same."""

import json

import pytest
import torch

from gpuopt.errors import FaultError
from tests.callbacks.two_ranks import said_by, two_ranks

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, two_gpus])])
def test_a_rank_that_runs_out_of_memory_recovers_alone(warm, tmp_path, device):
    with two_ranks(warm, "tests.callbacks.oom_ranks", tmp_path, device) as ranks:
        last = ranks[1].end(limit_s=240)
        # NCCL waits on the device, where nothing tells it; `gpuopt train` ends it then.
        first = None if device == "cuda" else ranks[0].end(limit_s=60)
    # In the end the second rank gives up, and the first one notices that it is gone.
    assert first is None or first.code == 17, said_by(first)
    assert last.code == FaultError.exit_code, said_by(last)
    lost = said_by(last)
    assert "with 1 sample at step 2; the last checkpoint stands; who holds it" in lost
    assert json.loads((tmp_path / "out_of_memory.rank1.json").read_text())["step"] == 2
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for name, largest in found.items():
            if name.startswith(("no failure", "events")):
                assert largest == 0.0, name
            else:
                assert largest < 1e-12, name
