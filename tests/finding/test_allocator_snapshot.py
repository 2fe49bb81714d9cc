import json

import pytest
import torch

from gpuopt.finding.allocator_snapshot import allocator_snapshot


def test_a_device_without_an_allocator_of_its_own_says_so_and_runs_nothing():
    def fail():
        pytest.fail("nothing is recorded")

    assert "cpu keeps none" in allocator_snapshot(fail, torch.device("cpu"))["absent"]


@pytest.fixture
def calls(monkeypatch):
    """Stand in for the recording of CUDA's allocator."""
    seen = []
    event = {"action": "alloc", "size": 512, "frames": [{"name": "f"}], "time_us": 1}
    monkeypatch.setattr(
        torch.cuda.memory,
        "_record_memory_history",
        lambda enabled=None, **options: seen.append(enabled),
    )
    monkeypatch.setattr(
        torch.cuda.memory,
        "_snapshot",
        lambda device: {
            "segments": [{"device": 0, "size": 1}, {"device": 1, "size": 2, "stream": object()}],
            "device_traces": [[], [event]],
        },
    )
    return seen


def test_only_the_device_that_ran_is_kept_in_plain_values(calls):
    snapshot = allocator_snapshot(lambda: calls.append("run"), torch.device("cuda", 1))
    assert calls == ["all", "run", None]
    (segment,) = json.loads(json.dumps(snapshot))["segments"]
    assert segment["size"] == 2
    assert snapshot["device_traces"] == [{"action": "alloc", "size": 512, "time_us": 1}]


def test_recording_ends_when_the_step_fails(calls):
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        allocator_snapshot(fail, torch.device("cuda", 0))
    assert calls == ["all", None]


@pytest.mark.gpu
def test_a_real_allocator_is_recorded():
    device = torch.device("cuda", 0)
    snapshot = allocator_snapshot(lambda: torch.ones(1 << 22, device=device).sum().item(), device)
    sizes = [event["size"] for event in snapshot["device_traces"] if event["action"] == "alloc"]
    assert max(sizes) >= 4 << 22
    json.dumps(snapshot)
