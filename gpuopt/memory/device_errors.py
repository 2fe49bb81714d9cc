"""Tell what a failed device operation means: memory that ran out, or a device that is lost."""

import gc

import torch

__all__ = ["free_memory", "is_device_lost", "is_exchange_out_of_memory", "is_out_of_memory"]

# Libraries that allocate beside PyTorch's pool fail with other classes than `OutOfMemoryError`.
# The handles of cuBLAS and cuDNN are made on first use, and then need memory of their own.
_MEMORY_WORDS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "NVML_SUCCESS == r INTERNAL ASSERT",  # the allocator's own report of an error failed
    "can't allocate memory",  # the CPU
)
# After these every further call on the device fails, whatever it is. A device-side assertion does
# the same, but is a mistake in the program or its data and has to be shown as it is.
_LOST_WORDS = (
    "an illegal memory access",
    "unspecified launch failure",
    "misaligned address",
    "uncorrectable ECC error",
    "hardware stack error",
    "the launch timed out",
    "GPU is lost",
    "has fallen off the bus",
)
# NCCL takes memory of its own, and its operations cannot be repeated by one rank alone.
_EXCHANGE_WORDS = ("NCCL error", "ncclUnhandledCudaError", "ncclSystemError")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an operation failed for want of memory and may be tried with less."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    is_final = is_device_lost(error) or _says(error, _EXCHANGE_WORDS)
    return _says(error, _MEMORY_WORDS) and not is_final


def is_exchange_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out in an exchange between ranks, which no retry can repair."""
    is_lost = is_device_lost(error)
    return not is_lost and _says(error, _EXCHANGE_WORDS) and _says(error, _MEMORY_WORDS)


def is_device_lost(error: BaseException) -> bool:
    """Tell whether the device's context is dead: only another process can use the device again."""
    return _says(error, _LOST_WORDS)


def free_memory() -> None:
    """Give back what nothing holds any more; waits for the device.

    Call it outside the `except` block: an exception's frames keep the tensors of the failed call.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    # `torch.AcceleratorError` is a RuntimeError as well.
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
