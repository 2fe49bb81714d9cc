from types import SimpleNamespace

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import apply_memory_limit

TOTAL_MIB = 24_576


@pytest.fixture
def caps(monkeypatch):
    """Pretend that there is one CUDA device and collect the caps that are set on it."""
    seen = []
    device = SimpleNamespace(total_memory=TOTAL_MIB * 2**20)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: device)
    monkeypatch.setattr(
        "torch.cuda.memory.set_per_process_memory_fraction", lambda *given: seen.append(given)
    )
    return seen


def test_the_limit_becomes_a_share_of_the_device(caps):
    assert apply_memory_limit(6144) == 0.25
    assert apply_memory_limit(TOTAL_MIB) == 1.0
    assert caps == [(0.25, 0), (1.0, 0)]


def test_the_context_that_a_real_card_would_lose_is_taken_off(caps):
    assert apply_memory_limit(6144, context_bytes=1024 * 2**20) == 5120 / TOTAL_MIB


@pytest.mark.parametrize("limit_mib", [0, -1, TOTAL_MIB + 1, 512])
def test_limits_that_the_device_cannot_have_are_refused(caps, limit_mib):
    with pytest.raises(InputError, match=f"memory_limit_mib={limit_mib}: must be above 512"):
        apply_memory_limit(limit_mib, context_bytes=512 * 2**20)
    assert not caps


@pytest.mark.parametrize("index", [1, -1])
def test_a_device_that_is_not_there_is_refused(caps, index):
    with pytest.raises(InputError, match=rf"no CUDA device {index} here \(1 found\)"):
        apply_memory_limit(6144, index)
    assert not caps


def test_a_machine_without_cuda_is_told_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="0 found"):
        apply_memory_limit(6144)
