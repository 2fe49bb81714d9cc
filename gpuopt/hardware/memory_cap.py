"""Making a big GPU behave as a small one."""

from gpuopt.errors import InputError

__all__ = ["apply_memory_limit"]

_MIB = 2**20


def apply_memory_limit(limit_mib: int, device_index: int = 0, context_bytes: int = 0) -> float:
    """Cap what this process may allocate on one device.

    Above the cap torch raises its ordinary out-of-memory error, also where the driver would
    otherwise spill into host memory (Windows and WSL).

    Args:
        limit_mib: The size of card to behave as.
        device_index: Position in CUDA's order.
        context_bytes: What the CUDA context takes of a real card. It lies outside torch's
            allocator, so it is subtracted from the cap.

    Returns:
        The share of the device's memory that the allocator may use.

    Raises:
        InputError: There is no such device, or the limit is not between the context and the
            device's memory.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not 0 <= device_index < count:
        raise InputError(
            f"gpu.memory_limit_mib={limit_mib}: no CUDA device {device_index} here ({count} found)"
        )
    total_bytes = torch.cuda.get_device_properties(device_index).total_memory
    limit_bytes = limit_mib * _MIB
    if not context_bytes < limit_bytes <= total_bytes:
        raise InputError(
            f"gpu.memory_limit_mib={limit_mib}: must be above {context_bytes // _MIB} and at most "
            f"the device's {total_bytes // _MIB} MiB"
        )
    ratio = float((limit_bytes - context_bytes) / total_bytes)
    torch.cuda.memory.set_per_process_memory_fraction(ratio, device_index)
    return ratio
