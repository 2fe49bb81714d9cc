"""Lightning callbacks, one per file, for any Trainer: they take plain arguments only."""

from gpuopt.callbacks.adaptive_batch_size import AdaptiveBatchSize
from gpuopt.callbacks.batch_size_finder import BatchSizeFinder
from gpuopt.callbacks.bottleneck_probe import BottleneckProbe
from gpuopt.callbacks.compile_chooser import CompileChooser
from gpuopt.callbacks.durable_checkpoint import DurableCheckpoint
from gpuopt.callbacks.early_stopping import EarlyStopping
from gpuopt.callbacks.engine_export import EngineExport, TensorRTExport
from gpuopt.callbacks.epoch_summary import EpochSummary
from gpuopt.callbacks.exact_resume import ExactResume
from gpuopt.callbacks.global_batch_schedule import GlobalBatchSchedule
from gpuopt.callbacks.gpu_stats import GpuStats
from gpuopt.callbacks.gradient_accumulation import GradientAccumulation
from gpuopt.callbacks.leak_watch import LeakWatch
from gpuopt.callbacks.moving_average import MovingAverage
from gpuopt.callbacks.non_finite_loss import NonFiniteLoss
from gpuopt.callbacks.nsys_marks import NsysMarks
from gpuopt.callbacks.oom_recovery import OomRecovery
from gpuopt.callbacks.preemption import Preemption
from gpuopt.callbacks.progress_bar import LossBar
from gpuopt.callbacks.scaler_steps import ScalerSteps
from gpuopt.callbacks.step_log import StepLog
from gpuopt.callbacks.step_profiler import StepProfiler

__all__ = [
    "AdaptiveBatchSize",
    "BatchSizeFinder",
    "BottleneckProbe",
    "CompileChooser",
    "DurableCheckpoint",
    "EarlyStopping",
    "EngineExport",
    "EpochSummary",
    "ExactResume",
    "GlobalBatchSchedule",
    "GpuStats",
    "GradientAccumulation",
    "LeakWatch",
    "LossBar",
    "MovingAverage",
    "NonFiniteLoss",
    "NsysMarks",
    "OomRecovery",
    "Preemption",
    "ScalerSteps",
    "StepLog",
    "StepProfiler",
    "TensorRTExport",
]
