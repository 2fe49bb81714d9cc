"""Answer the seed guide's flags, and small slips of Hydra's grammar, with the right spelling."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from gpuopt.configuration.limits import CHOICES, RANGES
from gpuopt.errors import InputError

__all__ = ["KEYS", "SEED_SPELLINGS", "translate_arguments"]

_WORDS = re.compile(r"\S+").findall
# Flags of the guide's scripts and of scripts like them; a typed value replaces the one here.
SEED_SPELLINGS: dict[str, str] = {
    "batch_size": "micro_batch_size=N",
    "compile_mode": "compile.mode=max-autotune",
    "compile_model": "compile.mode=default",
    "config": "mode=quickstart|basic|fast_optimized|highperf|lowend_highperf",
    "dynamo_backend": "compile.backend=inductor",
    "effective_batch_size": "global_batch_size=N",
    "epochs": "trainer.max_epochs=N",
    "fold": "fold=K",
    "fold_results": "run=latest",
    "gpu_memory": "gpu.memory_limit_mib=N",
    "gpu_memory_limit": "gpu.memory_limit_mib=N",
    "gpu_model": "gpu=rtx4090",
    "gradient_accumulation_steps": "accumulate_grad_batches=N",
    "lr": "model.learning_rate=X",
    "max_memory_usage": "gpu.headroom_ratio=X",
    "memory_fraction": "gpu.headroom_ratio=X",
    "memory_safety_margin": "gpu.headroom_ratio=X",
    "mode": "mode=highperf",
    "model": "model=convnext_base_384",
    "model_path": "run=FILE",
    "nproc_per_node": "trainer.devices=N",
    "output_path": "output=FILE",
    "precision": "precision=fp16",
    "safety_factor": "gpu.headroom_ratio=X",
    "tta": "tta=essential",
    "tta_type": "tta=essential",
    "use_amp": "precision=auto",
    "use_checkpoint": "model.checkpointing=full",
}
# What a switch means that is given as false; only `tta` also takes other values.
_OFF = {
    "compile_model": "compile.mode=off",
    "tta": "tta=none",
    "use_amp": "precision=fp32",
    "use_checkpoint": "model.checkpointing=none",
}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WEAK = ("compile_model", "config", "use_amp")  # an explicit flag beside them wins
_NOT_NEEDED = ("amp_opt_level", "distributed", "master_port")
# Flags of the guide whose feature does not exist yet.
_LATER = _WORDS("""activities adaptive_batch_size adjustment_factor aggressive_optimization
    allreduce_algorithm analyze_dataloader analyze_model analyze_optimizer analyze_team_performance
    auto_adjust_batch_size auto_scale_lr backend baseline_config benchmark benchmark_runs
    bucket_size_mb calculate_cost_savings calculate_performance_per_watt calculate_time_savings
    check_drivers checkpoint_segments compare_precision compatibility_matrix compression_ratio
    config_a config_b cost_model dashboard detailed duration enable_oom_recovery engine_path
    export_prometheus find_optimal gpu_ids gradient_compression include_inference
    initial_batch_size interval log_file max_batch_size measure_power_consumption memory_threshold
    metrics min_batch_size min_f1_score model_parallel model_type monitor_duration
    monitor_memory_usage multi_gpu offload_optimizer oom_recovery optimize_for_inference
    optimized_config output_dir output_report output_trace pipeline_parallel_size
    port profile_memory profile_steps recommend recommend_settings
    recommend_tta_type record_shapes save_config save_profile statistical_significance
    target_memory_usage target_time tensor_parallel_size test_data test_duration test_only
    threshold_mb update_interval use_calibration use_deepspeed use_tensorrt warmup_runs with_stack
    zero_stage""")
# The keys of a command, without what follows a dot.
_TRAIN = _WORDS("""accumulate_grad_batches cache_dir callbacks compile data debug experiment
    fold fold_processes folds global_batch_schedule global_batch_size gpu image_size
    learning_rate_reference_batch learning_rate_rule logger micro_batch_size mode model num_workers
    optimizer pin_memory precision resume run scheduler seed trainer tta""")
_PREDICT = _WORDS("batch_size cache_dir data debug gpu num_workers output precision run tta")
_CHECK = _WORDS(
    "cache_dir debug format gpu image_size model moving_average optimizer precision report"
)
KEYS = {"train": _TRAIN, "predict": _PREDICT, "check": _CHECK}
# Keys that can be told by their last part alone, as in data.mixup_alpha.
_ENDS = [key.rpartition(".")[2] for key in RANGES | CHOICES]
_BY_END = {
    end: key for end, key in zip(_ENDS, RANGES | CHOICES, strict=True) if _ENDS.count(end) < 2
}
_SLIPS = {*SEED_SPELLINGS, *_LATER, *_NOT_NEEDED, *_BY_END}
# Hydra's own options: those that stand alone, and those that take the next word.
_HYDRA = _WORDS("""-h --help --hydra-help --version --resolve -r --run -m --multirun -i --info
    -sc --shell-completion""")
_HYDRA_WITH_VALUE = _WORDS("""-c --cfg -p --package -cp --config-path -cn --config-name -cd
    --config-dir --experimental-rerun""")


class _Word(NamedTuple):
    """A wrong flag or key as typed, its name with underscores, and its value or nothing."""

    typed: str
    name: str
    value: str


def translate_arguments(command: str, arguments: Sequence[str]) -> list[str]:
    """Check the words of a command line and put them in the order that Hydra's parser takes.

    In Python 3.11 argparse refuses overrides that stand before `-m`, so options go first.

    Raises:
        InputError: For flags that are not Hydra's and for keys of the seed guide; says of all of
            them at once how they are spelled here.
    """
    options: list[str] = []
    settings: list[str] = []
    wrong: list[_Word] = []
    keys, rest = KEYS.get(command, _TRAIN), list(arguments)
    while rest:
        word = rest.pop(0)
        flag, attached, value = word.partition("=")
        name, following = flag.lstrip("-+~").replace("-", "_"), _value_in(rest)
        if flag in ("-i", "--info") and not attached:  # else it would swallow a setting
            options.append(f"--info={rest.pop(0) if following else 'all'}")
        elif flag in _HYDRA or flag in _HYDRA_WITH_VALUE:
            takes = flag in _HYDRA_WITH_VALUE and rest and not attached
            options += [word, rest.pop(0)] if takes else [word]
        elif re.match(r"--?[A-Za-z]", word):
            is_switch = name in _OFF and name != "tta" and following not in _TRUE + _FALSE
            if following and not attached and not is_switch:
                value = rest.pop(0)
            wrong.append(_Word(word if attached else f"{word} {value}".rstrip(), name, value))
        elif attached and command in KEYS and name in _SLIPS.difference(keys):
            wrong.append(_Word(word, name, value))
        else:
            settings.append(word)
    if wrong:
        raise InputError(_answer(wrong, keys))
    return options + settings


def _value_in(rest: Sequence[str]) -> str:
    """Return the next word if it is neither a flag nor a setting."""
    word = rest[0] if rest else ""
    return "" if re.match(r"-+[A-Za-z]|[\w.+~/@-]+=", word) else word


def _answer(wrong: Sequence[_Word], keys: Sequence[str]) -> str:
    found: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    for word in wrong:
        key, _, value = _spelling(word, keys).partition("=")
        if word.name in _LATER or word[1:] == ("mode", "find_optimal"):
            text = "not available yet"
        elif word.name in _NOT_NEEDED:
            text = "not needed"
        elif not key:
            text = f"no such option{_nearest(word, keys)}"
        elif key.partition(".")[0] not in keys:
            text = "settled by the run"
        else:
            found[key] = value if word.name not in _WEAK else found.get(key, value)
            continue
        others.setdefault(text, []).append(word.typed)
    has_dashes = any(word.typed.startswith("-") for word in wrong)
    start = "options are key=value here" if has_dashes else "that is called here"
    parts = [f"{start}: {' '.join(map('='.join, found.items()))}"] if found else []
    for text, typed in others.items():
        parts.append(text if len(typed) == len(wrong) else f"{text}: {' '.join(typed)}")
    return f"{' '.join(word.typed for word in wrong)}: {'; '.join(parts)}"


def _spelling(word: _Word, keys: Sequence[str]) -> str:
    """Return `key=value`, or an empty string for a name that nothing is called like."""
    name, value = word.name, word.value
    if name in _OFF and value in _FALSE:
        return _OFF[name]
    usual = SEED_SPELLINGS.get(name, "")
    if name in keys and not usual.startswith(f"{name}="):
        usual = f"{name}=VALUE"
    elif not usual:
        full = name if name.partition(".")[0] in keys else _BY_END.get(name)
        usual = f"{full}=VALUE" if full else ""
    key, _, example = usual.partition("=")
    return f"{key}={_converted(name, value) or example}" if key else ""


def _converted(name: str, value: str) -> str:
    """Turn a typed value into the one that is meant here; an empty string when it is none."""
    if name in _OFF and value in _TRUE:
        return ""
    if name == "config":
        mode = re.sub(r"^.*/|\.ya?ml$", "", value).removeprefix("train").lstrip("_") or "basic"
        return mode if value and mode in re.split(r"[=|]", SEED_SPELLINGS[name]) else ""
    if name == "fold_results" and "lastest-train/" in value:
        return "latest"  # the guide's name for the folder of the newest run
    try:
        if name in ("safety_factor", "memory_fraction", "max_memory_usage"):
            return f"{1 - float(value):g}"
        return f"{float(value) * 1024:.0f}" if name == "gpu_memory" else value
    except ValueError:
        return ""


def _nearest(word: _Word, keys: Sequence[str]) -> str:
    names = [*SEED_SPELLINGS, *keys, *_BY_END]
    known = {name: _spelling(word._replace(name=name), keys) for name in names}
    known |= {flag[2:].replace("-", "_"): flag for flag in _HYDRA + _HYDRA_WITH_VALUE}
    close = difflib.get_close_matches(word.name, known, 3, 0.6)
    spelled = ", ".join(dict.fromkeys(known[name] for name in close))
    return f" (nearest: {spelled})" if spelled else ""
