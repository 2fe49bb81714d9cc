"""What the values behind the seed guide's flags are called here."""

import re

__all__ = ["MODES", "converted", "written_experiment"]

MODES = ("quickstart", "basic", "fast_optimized", "highperf", "lowend_highperf")
"""What the guide's configuration files are called here."""


def written_experiment(value: str) -> str:
    """Return the name of a file that the guide's finder writes, which here is an experiment."""
    stem = re.sub(r"^.*/|\.ya?ml$", "", value)
    return "" if converted("config", value) or not re.match(r"train_\w", stem) else stem


def converted(name: str, value: str, *, is_on: bool = False) -> str:
    """Turn a typed value into the one that is meant here; an empty string when it is none.

    Args:
        name: Of the flag, with underscores.
        value: As typed.
        is_on: Whether it turns a switch on, which says no more than the switch itself.
    """
    if name == "offload_optimizer" or is_on:
        return ""  # the guide also says where to: the CPU
    if name == "config":
        mode = re.sub(r"^.*/|\.ya?ml$", "", value)
        mode = re.sub(r"^(train|infer)?_?", "", mode) or "basic"
        return mode if value and mode in MODES else ""
    if name == "checkpoint_segments":
        return f"stages={value}" if value else ""
    if name == "fold_results" and "lastest-train/" in value:
        return "latest"  # the guide's name for the folder of the newest run
    if name == "model_type":
        return ""  # a family, of which one model is meant
    if name == "save_config":
        return re.sub(r"^.*/|\.ya?ml$", "", value)
    if name == "log_file":
        return re.sub(r"\.json$", ".jsonl", value)  # of which each line is one
    if name == "output_trace":
        value = value.rpartition("/")[0]  # the file's folder
    if name in ("output_dir", "output_trace"):
        return value.rstrip("/")
    if name in ("activities", "gpu_ids"):
        return f"[{value.strip('[]')}]" if value else ""
    try:
        if name in ("safety_factor", "memory_fraction", "max_memory_usage"):
            return f"{1 - float(value):g}"
        return f"{float(value) * 1024:.0f}" if name == "gpu_memory" else value
    except ValueError:
        return ""
