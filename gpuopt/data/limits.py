"""Ranges of the options that all data sets share."""

from typing import Any

from gpuopt.errors import InputError, nearest

__all__ = ["check_options", "check_ratio"]

_FOLDS = (2, 20)
_INTEGERS = {
    "image_size": (8, 4096),
    "micro_batch_size": (1, 1 << 20),
    "global_batch_size": (1, 1 << 24),
    "num_workers": (0, 1024),
    "prefetch_factor": (1, 64),
    "seed": (0, (1 << 64) - 1),
    "evaluation_batch_size": (1, 1 << 20),
}
_NUMBERS = {
    "mixup_alpha": (0.0, 100.0),
    "cutmix_alpha": (0.0, 100.0),
    "cache_limit_gib": (0.0, 1e6),
    "max_rejected_ratio": (0.0, 1.0),
    "worker_timeout_s": (0.0, 86400.0),
}
_CHOICES = {"class_weights": ("none", "balanced"), "cache": ("off", "on", "auto")}


def check_options(options: Any) -> None:
    """Check the common options of a data module.

    Args:
        options: An object with the options as attributes.

    Raises:
        InputError: For the first value that is out of its range.
    """
    for name, (low, high) in _INTEGERS.items():
        value = getattr(options, name)
        if value is None and name == "evaluation_batch_size":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InputError(f"{name}={value} is not a whole number from {low} to {high}")
    for name, (least, greatest) in _NUMBERS.items():
        value = getattr(options, name)
        if not least <= value <= greatest:
            raise InputError(f"data.{name}={value} is not between {least:g} and {greatest:g}")
    check_ratio("validation_ratio", options.validation_ratio)
    _check_folds(options.folds, options.fold)
    for name, known in _CHOICES.items():
        value = getattr(options, name)
        if value not in known:
            raise InputError(f"data.{name}={value} is unknown{nearest(str(value), known)}")


def _check_folds(folds: int | None, fold: int | None) -> None:
    if folds is None and fold is None:
        return
    if folds is None or fold is None:
        raise InputError(f"folds={folds} and fold={fold} go together: give both, or neither")
    for name, value, (low, high) in (("folds", folds, _FOLDS), ("fold", fold, (0, folds - 1))):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InputError(f"{name}={value} is not a whole number from {low} to {high}")


def check_ratio(name: str, value: float) -> None:
    """Check the share of a split, which may be neither nothing nor everything.

    Raises:
        InputError: When it is not above 0 and below 1.
    """
    if not 0 < value < 1:
        raise InputError(f"data.{name}={value} is not above 0 and below 1")
