"""Answer the seed guide's flags, and small slips of Hydra's grammar, with the right spelling."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from gpuopt.configuration.check_flags import CHECK_COMMAND, REPORT_OF_FLAG, report_setting
from gpuopt.configuration.headroom_dial import with_one_dial
from gpuopt.configuration.limits import CHOICES, RANGES
from gpuopt.configuration.monitoring import MONITOR_KEYS, MONITOR_SPELLINGS
from gpuopt.configuration.seed_values import MODES, converted, written_experiment
from gpuopt.configuration.tuning_words import TUNE_KEYS
from gpuopt.errors import InputError

__all__ = [
    "FINDER_SPELLINGS",
    "KEYS",
    "PROFILER_SPELLINGS",
    "RECOMMENDER_SPELLINGS",
    "SEED_SPELLINGS",
    "translate_arguments",
]

_WORDS = re.compile(r"\S+").findall
# Flags of the guide's scripts and of scripts like them; a typed value replaces the one here.
SEED_SPELLINGS: dict[str, str] = {
    "adaptive_batch_size": "callbacks.adaptive_batch_size.enabled=true",
    "adjustment_factor": "callbacks.adaptive_batch_size.growth_ratio=X",
    "auto_adjust_batch_size": "callbacks.adaptive_batch_size.enabled=true",
    "auto_scale_lr": "learning_rate_rule=linear",
    "batch_size": "micro_batch_size=N",
    "benchmark_runs": "runs=N",
    "checkpoint_segments": "model.checkpointing=stages=N",
    "compile_mode": "compile.mode=max-autotune",
    "compile_model": "compile.mode=default",
    "config": f"mode={'|'.join(MODES)}",
    "dynamo_backend": "compile.backend=inductor",
    "effective_batch_size": "global_batch_size=N",
    "epochs": "trainer.max_epochs=N",
    "fold": "fold=K",
    "fold_results": "run=latest",
    "gpu_memory": "gpu.memory_limit_mib=N",
    "gpu_memory_limit": "gpu.memory_limit_mib=N",
    "gpu_model": "gpu=rtx4090",
    "gradient_accumulation_steps": "accumulate_grad_batches=N",
    "initial_batch_size": "callbacks.adaptive_batch_size.initial=N",
    "lr": "model.learning_rate=X",
    "max_batch_size": "callbacks.adaptive_batch_size.maximum=N",
    "max_memory_usage": "gpu.headroom_ratio=X",
    "memory_fraction": "gpu.headroom_ratio=X",
    "memory_safety_margin": "gpu.headroom_ratio=X",
    "memory_threshold": "callbacks.adaptive_batch_size.target_ratio=X",
    "mode": "mode=highperf",
    "model": "model=convnext_base_384",
    "model_path": "run=FILE",
    "nproc_per_node": "trainer.devices=N",
    "offload_optimizer": "optimizer.offload=true",
    "oom_recovery": "callbacks.oom_recovery.enabled=true",
    "output_path": "output=FILE",
    "precision": "precision=fp16",
    "safety_factor": "gpu.headroom_ratio=X",
    "test_data": "data.root=FOLDER",
    "target_memory_usage": "callbacks.adaptive_batch_size.target_ratio=X",
    "tta": "tta=essential",
    "tta_type": "tta=essential",
    "use_amp": "precision=auto",
    "use_calibration": "use_calibration=true",
    "use_checkpoint": "model.checkpointing=full",
    "warmup_runs": "warmup=N",
}
# What a switch means that is given as false; only `tta` also takes other values.
_OFF = {
    "adaptive_batch_size": "callbacks.adaptive_batch_size.enabled=false",
    "auto_adjust_batch_size": "callbacks.adaptive_batch_size.enabled=false",
    "auto_scale_lr": "learning_rate_rule=none",
    "compile_model": "compile.mode=off",
    "offload_optimizer": "optimizer.offload=false",
    "use_calibration": "use_calibration=false",
    "oom_recovery": "callbacks.oom_recovery.enabled=false",
    "tta": "tta=none",
    "use_amp": "precision=fp32",
    "use_checkpoint": "model.checkpointing=none",
}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
# An explicit flag beside them wins.
_WEAK = ("compile_model", "config", "use_amp", "use_checkpoint")
_NOT_NEEDED = ("amp_opt_level", "distributed", "master_port", "monitor_memory_usage")
# Flags of the guide whose feature does not exist yet.
_LATER = _WORDS("""aggressive_optimization allreduce_algorithm backend baseline_config
    bucket_size_mb calculate_cost_savings
    calculate_performance_per_watt calculate_time_savings compare_precision compression_ratio
    config_a config_b cost_model enable_oom_recovery
    find_optimal gpu_ids gradient_compression include_inference
    measure_power_consumption metrics min_batch_size model_parallel model_type
    multi_gpu optimized_config output_report pipeline_parallel_size save_config save_profile
    statistical_significance tensor_parallel_size test_duration test_only
    use_deepspeed zero_stage""")
# What `gpuopt find_batch_size` calls by another name than training does, or has no use for. Other
# commands name that command when they know no spelling of their own.
_FINDER = "find_batch_size"
FINDER_SPELLINGS: dict[str, str] = {
    "aggressive_optimization": "aggressive=true",
    "gpu_ids": "gpu_ids=[0,1]",
    "max_batch_size": "max_batch_size=N",
    "min_batch_size": "min_batch_size=N",
    "model_type": "model=convnext_base_384",
    "save_config": "save_config=NAME",
    "save_profile": "memory_profile=FILE",
    "test_only": "test_only=true",
}
# What the commands that know engines call by another name than training does, and what only they
# know. Whatever value follows, this is meant.
_ENGINE_SPELLINGS = {"compile_model": "engine=compiled", "dynamo_backend": "engine=compiled"}
_ENGINE_ONLY = {
    "engine_path": "engine_path=FILE",
    "optimize_for_inference": "optimize=true",
    "use_tensorrt": "engine=tensorrt",
}
_EXPORT_SPELLINGS = {"max_batch_size": "max_batch_size=N", "model_path": "checkpoint=FILE"}
_NOT_NEEDED_TO_FIND = _WORDS("""enable_oom_recovery find_optimal multi_gpu oom_recovery
    profile_memory""")
# What only `gpuopt recommend_tta` takes, or calls by another name.
_RECOMMENDER = "recommend_tta"
RECOMMENDER_SPELLINGS: dict[str, str] = {
    "config": "run=latest",
    "min_f1_score": "min_f1=X",
    "target_time": "target_minutes=N",
}
# What only `gpuopt diagnose` takes, or has no use for: it times all parts of a step.
_DIAGNOSE_SPELLINGS = {"monitor_duration": "duration=N", "threshold_mb": "threshold_mib=N"}
_NOT_NEEDED_TO_DIAGNOSE = _WORDS("analyze_dataloader analyze_model analyze_optimizer")
# What only `gpuopt profiler` takes, or calls by another name.
_PROFILER = "profiler"
PROFILER_SPELLINGS: dict[str, str] = {
    "activities": "activities=[cpu,cuda]",
    "output_dir": "output=FOLDER",
    "output_trace": "output=FOLDER",
    "profile_memory": "profile_memory=true",
    "profile_steps": "steps=N",
    "record_shapes": "record_shapes=true",
    "with_stack": "with_stack=true",
}
# The keys of a command, without what follows a dot.
_TRAIN = _WORDS("""accumulate_grad_batches cache_dir callbacks compile data debug experiment
    fold fold_processes folds global_batch_schedule global_batch_size gpu image_size
    learning_rate_reference_batch learning_rate_rule logger micro_batch_size mode model num_workers
    optimizer pin_memory precision precision_probe prefetch_factor resume run scheduler seed
    trainer tta use_calibration""")
_PREDICT = _WORDS("""batch_size cache_dir data debug engine engine_path folds_per_pass gpu
    num_workers optimize output precision provider resume run tta use_calibration""")
_EXPORT = _WORDS("""cache_dir checkpoint data debug engine fp32_layers gpu image_size max_batch_size
    model num_classes optimal_batch_size output precision provider run""")
_CHECK = _WORDS("""cache_dir debug format gpu image_size images model moving_average optimizer
    precision report run train_images""")
_FIND = _WORDS("""aggressive format gpu_ids max_batch_size memory_profile min_batch_size purpose
    save_config target test_only""")
_BENCHMARK = _WORDS("""cache_dir data debug engine_path engines format gpu least_proof_images
    max_batch_size optimal_batch_size precision run runs target warmup""")
_DIAGNOSE = _WORDS("duration format interval load rounds target threshold_mib")
_RECOMMEND = _WORDS("""batch_size cache_dir debug format gpu images min_f1 num_workers policies
    precision run save_config target_minutes""")
_PROFILE = _WORDS("""active activities nsys output profile_memory record_shapes steps wait warmup
    with_stack""")
KEYS = {
    "train": _TRAIN,
    "predict": _PREDICT,
    "check": _CHECK,
    "benchmark": _BENCHMARK,
    "diagnose": [*_TRAIN, *_DIAGNOSE],
    "export": _EXPORT,
    _FINDER: [*_TRAIN, *_FIND],
    _RECOMMENDER: _RECOMMEND,
    "monitor": MONITOR_KEYS,
    _PROFILER: [*_TRAIN, *_PROFILE],
    "tune": [*_TRAIN, *TUNE_KEYS],
}
# Keys that can be told by their last part alone, as in data.mixup_alpha.
_ENDS = [key.rpartition(".")[2] for key in RANGES | CHOICES]
_BY_END = {
    end: key for end, key in zip(_ENDS, RANGES | CHOICES, strict=True) if _ENDS.count(end) < 2
}
_SLIPS = {
    *MONITOR_SPELLINGS,
    *(*SEED_SPELLINGS, *FINDER_SPELLINGS, *RECOMMENDER_SPELLINGS, *PROFILER_SPELLINGS),
    *(*_ENGINE_ONLY, *_DIAGNOSE_SPELLINGS, *_NOT_NEEDED_TO_DIAGNOSE),
    *(*_LATER, *_NOT_NEEDED, *_BY_END, *REPORT_OF_FLAG),
}
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

    In Python 3.11 argparse refuses overrides that stand before `-m`, so options go first. The
    guide's names of the share of memory, such as `safety_factor=0.9`, become `gpu.headroom_ratio`.

    Raises:
        InputError: For flags that are not Hydra's and for keys of the seed guide; says of all of
            them at once how they are spelled here. For two names of the share of memory.
    """
    arguments = with_one_dial(arguments) if command in KEYS else arguments
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
        raise InputError(_answer(command, wrong, keys))
    return options + settings


def _value_in(rest: Sequence[str]) -> str:
    """Return the next word if it is neither a flag nor a setting."""
    word = rest[0] if rest else ""
    return "" if re.match(r"-+[A-Za-z]|[\w.+~/@-]+=", word) else word


def _answer(command: str, wrong: Sequence[_Word], keys: Sequence[str]) -> str:
    found = report_setting(command, [word.name for word in wrong])
    others: dict[str, list[str]] = {}
    for word in wrong:
        key, _, value = _spelling(word, keys).partition("=")
        if word.name in REPORT_OF_FLAG and "report" in found:
            continue
        if text := _for_finder(command, word, key, keys):
            pass
        elif word.name in REPORT_OF_FLAG and key not in keys:
            text = f"gpuopt {CHECK_COMMAND} takes that"
        elif key in _RECOMMEND and key not in keys and word.name not in SEED_SPELLINGS:
            text = f"gpuopt {_RECOMMENDER} takes that"
        elif word.name in {*_DIAGNOSE_SPELLINGS, *_NOT_NEEDED_TO_DIAGNOSE} and key not in keys:
            diagnoses = "threshold_mib" in keys
            text = "not needed" if diagnoses else "gpuopt diagnose takes that"
        elif word.name == "multi_gpu" and command == "monitor":
            text = "not needed"  # the list of devices says it
        elif word.name in MONITOR_SPELLINGS and key not in keys:
            text = "gpuopt monitor takes that"
        elif word.name in PROFILER_SPELLINGS and key not in keys:
            text = f"gpuopt {_PROFILER} takes that"
        elif word.name in _LATER and key not in keys:
            text = "not available yet"
        elif word.name in _NOT_NEEDED:
            text = "not needed"
        elif word.name in _ENGINE_ONLY and key.partition(".")[0] not in keys:
            text = "gpuopt predict takes that"
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


def _for_finder(command: str, word: _Word, key: str, keys: Sequence[str]) -> str:
    """Say what becomes of a flag that has to do with finding the batch; else nothing."""
    finds = word.name == "find_optimal" or word[1:] == ("mode", "find_optimal")
    if command == _FINDER:
        return "not needed" if finds or word.name in _NOT_NEEDED_TO_FIND else ""
    is_known = word.name in SEED_SPELLINGS or key.partition(".")[0] in keys
    is_finders = word.name in {*FINDER_SPELLINGS, *_FIND, "find_optimal"}.difference(_CHECK)
    return f"gpuopt {_FINDER} takes that" if finds or (is_finders and not is_known) else ""


def _spelling(word: _Word, keys: Sequence[str]) -> str:
    """Return `key=value`, or an empty string for a name that nothing is called like."""
    name, value = word.name, word.value
    if name in _OFF and value in _FALSE:
        return _OFF[name]
    if name == "config" and "experiment" in keys and (written := written_experiment(value)):
        return f"experiment={written}"
    if "engine" in keys and name in {**_ENGINE_SPELLINGS, **_ENGINE_ONLY}.keys() - {"engine_path"}:
        return {**_ENGINE_SPELLINGS, **_ENGINE_ONLY}[name]
    usual = SEED_SPELLINGS.get(name, "")
    if "checkpoint" in keys:
        usual = _EXPORT_SPELLINGS.get(name, usual)
    if "purpose" in keys or not usual:
        usual = FINDER_SPELLINGS.get(name, usual)
    if "threshold_mib" in keys:
        usual = _DIAGNOSE_SPELLINGS.get(name, usual)
    if "target_minutes" in keys or not usual:
        usual = RECOMMENDER_SPELLINGS.get(name, usual)
    if "activities" in keys or not usual:
        usual = PROFILER_SPELLINGS.get(name, usual)
    if "replay" in keys or not usual:
        usual = MONITOR_SPELLINGS.get(name, usual)
    if name in keys and not usual.startswith(f"{name}="):
        usual = f"{name}=VALUE"
    elif not usual:
        full = name if name.partition(".")[0] in keys else _BY_END.get(name)
        usual = f"{full}=VALUE" if full else ""
    key, _, example = usual.partition("=")
    if name == "config" and key == "run":  # the guide's file holds the settings of a run
        return usual
    return (
        f"{key}={converted(name, value, is_on=name in _OFF and value in _TRUE) or example}"
        if key
        else ""
    )


def _nearest(word: _Word, keys: Sequence[str]) -> str:
    names = [*SEED_SPELLINGS, *keys, *_BY_END]
    known = {name: _spelling(word._replace(name=name), keys) for name in names}
    known |= {flag[2:].replace("-", "_"): flag for flag in _HYDRA + _HYDRA_WITH_VALUE}
    close = difflib.get_close_matches(word.name, known, 3, 0.6)
    spelled = ", ".join(dict.fromkeys(known[name] for name in close))
    return f" (nearest: {spelled})" if spelled else ""
