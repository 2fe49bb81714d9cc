"""The process group through which the ranks of a run talk to each other."""

import os
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from gpuopt.parallel.rank import Rank

__all__ = ["group_backend", "join_group", "leave_group"]


def group_backend(accelerator: str) -> str:
    """Name the backends for `cuda` or `cpu`.

    On a GPU numbers that lie on the host still go through gloo, so that no device has to be
    waited for when ranks agree on something.
    """
    return "cpu:gloo,cuda:nccl" if accelerator == "cuda" else "gloo"


def join_group(rank: Rank, backend: str, timeout: timedelta) -> None:
    """Meet the other ranks; does nothing for a process that is alone.

    PyTorch would read the addresses that the ranks of an earlier attempt left in torchrun's store,
    and find nobody there. So each attempt gets names of its own. Only on one machine: with several,
    each counts its own attempts.

    Args:
        rank: This process's place.
        backend: See `group_backend`.
        timeout: How long a rank waits for another, here and in every collective.
    """
    if rank.world_size == 1:
        return
    store, number, world_size = next(rendezvous("env://", timeout=timeout))
    if rank.hosts == 1:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"gpuopt_{attempt}", store)
    dist.init_process_group(
        backend, store=store, rank=number, world_size=world_size, timeout=timeout
    )


def leave_group() -> None:
    """Part from the other ranks."""
    dist.destroy_process_group()
