"""What a batch cannot be split for: where a retry would not be exact, or would hang."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn
from torch.optim import LBFGS

from gpuopt.errors import InputError

__all__ = ["refuse", "refuse_optimizers"]


def refuse(owner: str, key: str, trainer: L.Trainer, module: L.LightningModule) -> None:
    """Refuse what a retry would spoil or hang.

    Args:
        owner: Name of the callback.
        key: Its setting, of gpuopt's configuration.
        trainer: With its strategy, before the fit.
        module: To be trained.

    Raises:
        InputError: With the reason.
    """
    reason = _reason(trainer, module)
    if reason is not None:
        raise InputError(_refusal(owner, key, reason))


def refuse_optimizers(owner: str, key: str, trainer: L.Trainer) -> None:
    """Refuse optimizers that run a batch by themselves; raises as `refuse`."""
    if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        raise InputError(_refusal(owner, key, "LBFGS runs a batch several times in one step"))


def _refusal(owner: str, key: str, reason: str) -> str:
    return (
        f"{owner} cannot be exact and safe here: {reason}; train without it "
        f"(callbacks.{key}.enabled=false)"
    )


def _reason(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    if not module.automatic_optimization:
        return "the module optimizes by hand, so a step cannot be taken back"
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return "training_step takes its batches from the loader itself"
    strategy: Any = trainer.strategy
    is_known = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy))
    if not is_known or isinstance(strategy, DeepSpeedStrategy):  # which is a DDPStrategy by name
        return f"{type(strategy).__name__} leaves weights scattered when a pass fails half-way"
    has_synced = any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
    if has_synced or getattr(strategy, "_layer_sync", None) is not None:
        return "SyncBatchNorm makes ranks wait for each other in every part"
    ddp = getattr(strategy, "_ddp_kwargs", {})
    for option in ("find_unused_parameters", "static_graph"):
        if ddp.get(option):
            return f"DDP with {option} follows the graph behind the loss, which is kept from it"
    return None
