"""Floor 2: how much memory a run takes and what fits. Importing this imports no torch."""

from gpuopt.memory.estimate import FixedMemory, Line, MemoryEstimate
from gpuopt.memory.finder import MOST_PROBES, find_batch_size
from gpuopt.memory.finder_result import FinderResult
from gpuopt.memory.micro_batch import (
    LARGEST_PREDICTION,
    BatchChoice,
    choose_micro_batch,
    choose_prediction_batch,
    cut_global_batch,
)
from gpuopt.memory.predictor import CONTEXT_BYTES, predict_memory
from gpuopt.memory.probe_result import ProbeResult
from gpuopt.memory.setup import MemorySetup
from gpuopt.memory.step_time import StepTime

__all__ = [
    "CONTEXT_BYTES",
    "LARGEST_PREDICTION",
    "MOST_PROBES",
    "BatchChoice",
    "FinderResult",
    "FixedMemory",
    "Line",
    "MemoryEstimate",
    "MemorySetup",
    "ProbeResult",
    "StepTime",
    "choose_micro_batch",
    "choose_prediction_batch",
    "cut_global_batch",
    "find_batch_size",
    "predict_memory",
]
