"""How many loader processes this machine can carry. Imports no torch."""

import math
from dataclasses import dataclass

from gpuopt.hardware import available_cpus, host_memory_bytes
from gpuopt.hardware.shared_memory import workers_that_fit

__all__ = ["WorkerLimit", "worker_limit"]

# A process that waits for a disk most of the time takes little of a processor; below this share
# the number of processes is no longer a question of processors.
_LEAST_CPU_RATIO = 0.05
_MOST_WORKERS = 32
_ROUNDED = 0.15  # a process that seems to wait a little wants a processor of its own all the same
_MOST_HOST_MEMORY_RATIO = 0.25


@dataclass(frozen=True)
class WorkerLimit:
    """The most processes, and what limits them.

    Attributes:
        workers: Their number.
        reason: One clause.
    """

    workers: int
    reason: str


def worker_limit(
    cpu_ratio: float,
    batch_bytes: int,
    prefetch_factor: int,
    *,
    cpus: int | None = None,
    shared: int | None = None,
    host_bytes: int | None = None,
) -> WorkerLimit:
    """Count the loader processes that the processors and the memory can carry.

    Args:
        cpu_ratio: Seconds of a processor that one process wants in a second.
        batch_bytes: Size of a batch.
        prefetch_factor: Batches that each process holds ready.
        cpus: Processors of this training; None asks for the affinity and the container's quota.
        shared: Processes whose batches fit into the shared memory; None asks the system.
        host_bytes: Memory of the machine or container; None asks the system.
    """
    cpus = available_cpus() if cpus is None else cpus
    if shared is None:
        shared = workers_that_fit(batch_bytes, prefetch_factor=prefetch_factor)
    host_bytes = host_memory_bytes() if host_bytes is None else host_bytes
    share = max(_LEAST_CPU_RATIO, cpu_ratio)
    by_cpu = max(1, math.ceil(cpus / share - _ROUNDED))
    by_memory = int(_MOST_HOST_MEMORY_RATIO * host_bytes) // max(
        1, batch_bytes * (prefetch_factor + 1)
    )
    limits = [
        WorkerLimit(
            by_cpu, f"{cpus} processors may be used and a process takes {min(share, 99):.2f} of one"
        ),
        WorkerLimit(by_memory, "a quarter of the host's memory holds the batches of no more"),
        WorkerLimit(_MOST_WORKERS, f"no more than {_MOST_WORKERS} are ever tried"),
    ]
    if shared is not None:
        held = "shared memory (/dev/shm) holds the batches of no more"
        limits.append(WorkerLimit(shared, held))
    return min(limits, key=lambda limit: limit.workers)
