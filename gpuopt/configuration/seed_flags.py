"""Answer the seed guide's flags, and small slips of Hydra's grammar, with the right spelling."""

from collections.abc import Sequence

from gpuopt.errors import InputError

__all__ = ["SEED_SPELLINGS", "translate_arguments"]

# Flags of the seed guide's scripts (either of `-` and `_`) and what they are called here.
SEED_SPELLINGS: dict[str, str] = {
    "accumulate_grad_batches": "accumulate_grad_batches=N",
    "batch_size": "micro_batch_size=N",
    "checkpoint_segments": "model.checkpointing=full",
    "compile_mode": "compile.mode=max-autotune",
    "compile_model": "compile.mode=default",
    "config": "mode=quickstart|basic|fast_optimized|highperf|lowend_highperf",
    "dynamo_backend": "compile.backend=inductor",
    "effective_batch_size": "global_batch_size=N",
    "epochs": "trainer.max_epochs=N",
    "gpu_memory_limit": "gpu.memory_limit_mib=N",
    "gpu_model": "gpu=rtx4090",
    "gradient_accumulation_steps": "accumulate_grad_batches=N",
    "gradient_clip_val": "trainer.gradient_clip_norm=X",
    "image_size": "image_size=N",
    "learning_rate": "model.learning_rate=X",
    "lr": "model.learning_rate=X",
    "max_epochs": "trainer.max_epochs=N",
    "mode": "mode=highperf",
    "model": "model=convnext_base_384",
    "model_path": "run=FILE",
    "num_workers": "num_workers=N",
    "output_path": "output=FILE",
    "pin_memory": "pin_memory=true|false",
    "precision": "precision=fp16",
    "safety_factor": "gpu.headroom_ratio=0.1 (1 - safety factor)",
    "seed": "seed=N",
    "tta": "tta=essential",
    "tta_type": "tta=essential",
    "use_amp": "precision=auto (or bf16, fp16)",
    "use_checkpoint": "model.checkpointing=full",
    "weight_decay": "optimizer.weight_decay=X",
}
# Hydra's own options, which stay as they are.
_MULTIRUN = ("-m", "--multirun")
_KEYS = ("batch_size", "lr", "learning_rate", "max_epochs", "epochs", "weight_decay")


def translate_arguments(command: str, arguments: Sequence[str]) -> list[str]:
    """Check the words of a command line and put them in the order that Hydra's parser takes.

    In Python 3.11 argparse refuses overrides that stand before `-m`, so options go first.

    Raises:
        InputError: For a flag or key of the seed guide; names the spelling that works here.
    """
    for position, word in enumerate(arguments):
        _check_word(command, word, arguments[position + 1 :])
    options = [word for word in arguments if word in _MULTIRUN]
    return options + [word for word in arguments if word not in _MULTIRUN]


def _check_word(command: str, word: str, rest: Sequence[str]) -> None:
    flag, _, value = word.partition("=")
    name = flag.lstrip("-").replace("-", "_")
    if word.startswith("--") and name in SEED_SPELLINGS:
        given = value or (rest[0] if rest and not rest[0].startswith("-") else "")
        raise InputError(f"{word}: options are key=value here: {_spelling(name, given)}")
    if flag in _KEYS and value and not word.startswith("-"):
        if flag == "batch_size" and command == "predict":
            return  # there it is a key of its own
        raise InputError(f"{word}: that key is called {_spelling(flag, value)}")


def _spelling(name: str, value: str) -> str:
    spelling = SEED_SPELLINGS[name]
    key, _, example = spelling.partition("=")
    return f"{key}={value}" if value and example in ("N", "X") else spelling
