"""The words that settings take, where they take a few."""

from gpuopt.batch_schedule import LEARNING_RATE_RULES

__all__ = ["BETTER", "CHOICES"]

# What validation logs, and whether more or less of it is better.
BETTER = {"val/accuracy": "max", "val/f1": "max", "val/loss": "min"}
_REPORTS_ON_CARDS = ("matrix", "drivers", "fit", "tta")
# Settings that take one of a few words, or true and false.
CHOICES: dict[str, tuple[str | bool, ...]] = {
    "callbacks.checkpoint.mode": ("max", "min"),
    "callbacks.checkpoint.monitor": tuple(BETTER),
    "callbacks.early_stopping.mode": ("max", "min"),
    "callbacks.engine_export.engine": ("auto", "aot_inductor", "onnx", "tensorrt"),
    "callbacks.engine_export.precision": ("auto", "fp32", "fp16", "bf16"),
    "callbacks.tensorrt_export.engine": ("tensorrt",),
    "callbacks.tensorrt_export.precision": ("fp32", "fp16", "bf16"),
    "callbacks.early_stopping.monitor": tuple(BETTER),
    "compile.mode": ("off", "auto", "default", "reduce-overhead", "max-autotune"),
    "data.cache": ("auto", "on", "off"),
    "data.class_weights": ("none", "balanced"),
    "model.channels_last": ("auto", True, False),
    "model.batch_norm": ("train", "frozen"),
    "learning_rate_rule": LEARNING_RATE_RULES,
    "engine": ("auto", "eager", "compiled", "aot_inductor", "onnx", "tensorrt"),
    "provider": ("auto", "tensorrt", "tensorrt_rtx", "cuda", "cpu"),
    "load": ("none", "train"),
    "logger.name": ("tensorboard", "csv", "none"),
    "nsys": (True, False, "marks"),
    "model.checkpointing": ("none", "auto", "full"),  # or stages=K
    "format": ("table", "json", "markdown"),  # the last one for `gpuopt check` alone
    "goal": ("throughput", "latency", "memory"),
    "purpose": ("train", "predict", "tta"),
    # One of these, or a list of them.
    "report": ("summary", "detailed", "benchmark", "recommend", *_REPORTS_ON_CARDS),
    "use_calibration": ("auto", True, False),
    "precision.name": ("auto", "fp32", "tf32", "bf16", "fp16"),
}
