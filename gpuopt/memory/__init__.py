"""Floor 2: how much memory a run takes and what fits. Importing this imports no torch."""

from gpuopt.memory.estimate import FixedMemory, Line, MemoryEstimate
from gpuopt.memory.micro_batch import choose_micro_batch
from gpuopt.memory.predictor import CONTEXT_BYTES, predict_memory
from gpuopt.memory.setup import MemorySetup

__all__ = [
    "CONTEXT_BYTES",
    "FixedMemory",
    "Line",
    "MemoryEstimate",
    "MemorySetup",
    "choose_micro_batch",
    "predict_memory",
]
