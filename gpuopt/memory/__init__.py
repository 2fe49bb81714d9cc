"""Floor 2: how much memory a run takes and what fits. Importing this does not import timm."""

from gpuopt.memory.micro_batch import choose_micro_batch
from gpuopt.memory.predictor import CONTEXT_BYTES, MemoryEstimate, predict_memory

__all__ = ["CONTEXT_BYTES", "MemoryEstimate", "choose_micro_batch", "predict_memory"]
