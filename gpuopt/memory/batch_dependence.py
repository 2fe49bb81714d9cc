"""Parts of a network that make a sample's result depend on the samples beside it, or on chance."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gpuopt.batch_statistics import has_frozen_statistics

__all__ = ["depends_on_batch"]


def depends_on_batch(module: nn.Module) -> list[nn.Module]:
    """List what makes a sample's result depend on the others or on random numbers."""
    return [part for part in module.modules() if _depends(part)]


def _depends(part: nn.Module) -> bool:
    if isinstance(part, _BatchNorm):
        return not has_frozen_statistics(part)
    if isinstance(part, _DropoutNd):
        return bool(part.p > 0)
    if isinstance(part, nn.MultiheadAttention):
        return bool(part.dropout > 0)
    # timm's DropPath, torchvision's StochasticDepth and the like have no common class.
    rate = getattr(part, "drop_prob", None) or getattr(part, "p", None)
    name = type(part).__name__.lower()
    return isinstance(rate, float) and rate > 0 and ("drop" in name or "stochastic" in name)
