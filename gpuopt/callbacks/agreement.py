"""What all ranks have to decide alike, asked without making a device wait."""

import lightning.pytorch as L
import torch

__all__ = ["any_rank"]


def any_rank(trainer: L.Trainer, flag: bool) -> bool:
    """Tell whether any of the ranks says yes; every rank must ask at the same point.

    Where the process group can carry numbers of the host (gloo beside NCCL), no device is asked.
    """
    if trainer.world_size == 1:
        return flag
    on_host = "cpu:" in torch.distributed.get_backend_config()
    device = torch.device("cpu") if on_host else trainer.strategy.root_device
    votes = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return bool(votes)
