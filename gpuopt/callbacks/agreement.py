"""What all ranks have to decide alike, asked without making a device wait."""

from collections.abc import Sequence

import lightning.pytorch as L
import torch

__all__ = ["any_rank", "largest_of_ranks", "sum_over_ranks"]


def any_rank(trainer: L.Trainer, flag: bool) -> bool:
    """Tell whether any of the ranks says yes; every rank must ask at the same point."""
    return bool(largest_of_ranks(trainer, [float(flag)])[0])


def largest_of_ranks(trainer: L.Trainer, values: Sequence[float]) -> list[float]:
    """Return the largest of each value over all ranks; every rank must ask at the same point.

    Where the process group can carry numbers of the host (gloo beside NCCL), no device is asked.
    """
    if trainer.world_size == 1:
        return list(values)
    votes = torch.tensor(values, dtype=torch.float64, device=_device(trainer))
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return [float(vote) for vote in votes.tolist()]


def sum_over_ranks(trainer: L.Trainer, *values: float) -> list[float]:
    """Add up numbers over the ranks; every rank must ask at the same point."""
    if trainer.world_size == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_device(trainer))
    torch.distributed.all_reduce(total)
    return [float(value) for value in total.tolist()]


def _device(trainer: L.Trainer) -> torch.device:
    on_host = "cpu:" in torch.distributed.get_backend_config()
    return torch.device("cpu") if on_host else trainer.strategy.root_device
