import pytest
import torch

from gpuopt.memory.device_errors import (
    free_memory,
    is_device_lost,
    is_exchange_out_of_memory,
    is_out_of_memory,
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_want_of_memory_is_told_in_all_its_wordings(error):
    assert is_out_of_memory(error)
    assert not is_device_lost(error)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
    ],
)
def test_a_lost_device_is_told_apart(text):
    error = torch.AcceleratorError(text, 700)
    assert is_device_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_are_neither(error):
    assert not is_out_of_memory(error)
    assert not is_device_lost(error)


@pytest.mark.parametrize(
    ("text", "is_memory"),
    [
        (
            "NCCL error in: x.cpp:1, Last error: Cuda failure 2 'out of memory'",
            1,
        ),
        ("NCCL error in: x.cpp:1, remote process exited or there was a network error", 0),
    ],
)
def test_memory_that_runs_out_in_an_exchange_is_not_tried_again(text, is_memory):
    error = torch.distributed.DistBackendError(text)
    assert not is_out_of_memory(error)
    assert is_exchange_out_of_memory(error) is bool(is_memory)


def test_memory_is_freed_without_a_device():
    free_memory()
