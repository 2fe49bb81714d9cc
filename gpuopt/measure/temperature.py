"""Temperature scaling: divide log-probabilities by one number, so that confidence means accuracy.

Guo et al., 2017. Probabilities that were merged over views or models are taken as they are and
calibrated afterwards (pool, then calibrate: Wu and Gales, 2020): p^(1/T), made to sum to 1 again.
NumPy in float64, a few thousand rows at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuopt.errors import InputError
from gpuopt.measure.classification import checked_labels

__all__ = [
    "LARGEST_TEMPERATURE",
    "SMALLEST_TEMPERATURE",
    "TemperatureFit",
    "apply_temperature",
    "checked_scores",
    "fit_temperature",
    "log_of_probabilities",
    "row_chunks",
    "scaled_log_probabilities",
]

SMALLEST_TEMPERATURE = 0.05
LARGEST_TEMPERATURE = 20.0
_TOLERANCE = 1e-6  # of the temperature's logarithm
_NEAR_A_BOUND = 1e-3
_LEAST_GAIN = 1e-9  # nats; less is rounding
# A probability that underflowed in fp32 has no logarithm; it counts as the smallest normal one.
_FLOOR = float(np.finfo(np.float32).tiny)
_CHUNK_VALUES = 1 << 20
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class TemperatureFit:
    """What the search for a temperature found.

    Attributes:
        temperature: The one to use; 1 when none is better.
        is_accepted: Whether a temperature other than 1 is used.
        nll_before: Mean negative log-likelihood of the data at temperature 1, in nats.
        nll_after: At `temperature`.
        reason: Why none is accepted; empty when one is.
    """

    temperature: float
    is_accepted: bool
    nll_before: float
    nll_after: float
    reason: str = ""


def fit_temperature(targets: ArrayLike, log_probabilities: ArrayLike) -> TemperatureFit:
    """Find the temperature with the least negative log-likelihood.

    The likelihood has one minimum in the temperature, so that a bounded search of one dimension
    finds it. A temperature is never accepted when the likelihood of these data gets worse, or when
    no finite one is best: predictions without a single error would end at 0.

    Args:
        targets: True classes, [n].
        log_probabilities: Of every class, [n, classes], of any kind of float; a constant added
            to a row changes nothing, so that logits do as well. Predictions of samples that the
            model was not trained on.

    Raises:
        InputError: For shapes that do not go together, classes that do not exist, or values that
            are not finite.
    """
    true, scores = checked_scores(targets, log_probabilities)
    low, high = math.log(SMALLEST_TEMPERATURE), math.log(LARGEST_TEMPERATURE)
    # Only now: SciPy takes a while to import, and applying a temperature does not need it.
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_temperature: _nll(true, scores, math.exp(log_temperature)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": _TOLERANCE},
    )
    log_temperature, nll = float(found.x), float(found.fun)
    before = _nll(true, scores, 1.0)
    temperature = math.exp(log_temperature)
    if not before - nll > _LEAST_GAIN:
        reason = f"temperature {temperature:.3g} does not lower the negative log-likelihood"
    elif _all_right(true, scores):
        reason = "every sample is predicted right: the surer, the better, without end"
    elif min(log_temperature - low, high - log_temperature) < _NEAR_A_BOUND:
        reason = f"the likelihood still grows at temperature {temperature:.3g}, the last one tried"
    else:
        return TemperatureFit(temperature, True, before, nll)
    return TemperatureFit(1.0, False, before, before, reason)


def apply_temperature(probabilities: ArrayLike, temperature: float) -> NDArray[np.float32]:
    """Calibrate probabilities; the most probable class of every row stays the same.

    Args:
        probabilities: Of any model, merge of views or mean of models, [n, classes].
        temperature: Above 1 makes them more careful, below 1 surer.

    Returns:
        p^(1/T), made to sum to 1, float32 [n, classes].

    Raises:
        InputError: For another shape, a temperature that is not a positive number, or
            probabilities that are negative or not finite.
    """
    _check_temperature(temperature)
    given = _checked_probabilities(probabilities)
    result = given.astype(np.float32)
    if temperature == 1.0:
        return result
    for rows in row_chunks(given.shape):
        logs = np.log(np.maximum(given[rows].astype(np.float64), _FLOOR))
        part = result[rows]
        part[:] = np.exp(scaled_log_probabilities(logs, temperature))
        _keep_classes(part, given[rows].argmax(axis=1))
    return result


def log_of_probabilities(probabilities: ArrayLike) -> NDArray[np.float32]:
    """Take logarithms for `fit_temperature`; a probability of 0 counts as the smallest in fp32.

    Args:
        probabilities: [n, classes].

    Raises:
        InputError: For another shape, or values that are negative or not finite.
    """
    given = _checked_probabilities(probabilities)
    result = np.empty(given.shape, np.float32)
    for rows in row_chunks(given.shape):
        result[rows] = np.log(np.maximum(given[rows].astype(np.float64), _FLOOR))
    return result


def scaled_log_probabilities(
    log_probabilities: ArrayLike, temperature: float
) -> NDArray[np.float64]:
    """Divide by a temperature and normalise each row, [n, classes]."""
    logs = np.asarray(log_probabilities, np.float64) / temperature
    logs -= logs.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return logs


def row_chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the rows of an array [n, classes] into parts of bounded size."""
    size = min(_CHUNK_ROWS, max(1, _CHUNK_VALUES // shape[1]))
    for start in range(0, shape[0], size):
        yield slice(start, min(start + size, shape[0]))


def checked_scores(
    targets: ArrayLike, log_probabilities: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Return true classes [n] and scores [n, classes] that go together.

    Raises:
        InputError: When they do not, a class does not exist, or a value is not finite.
    """
    true, _ = checked_labels(targets)
    scores = np.asarray(log_probabilities)
    if scores.dtype.kind != "f" or scores.ndim != 2 or scores.shape[0] != len(true):
        raise InputError(
            f"log-probabilities must be floats [{len(true)}, classes], one row per target, not "
            f"{scores.dtype} {list(scores.shape)}"
        )
    if int(true.max()) >= scores.shape[1]:
        raise InputError(f"class {true.max()} occurs, but there are only {scores.shape[1]} classes")
    if not all(np.isfinite(scores[rows]).all() for rows in row_chunks(scores.shape)):
        raise InputError(
            "log-probabilities must be finite: log_of_probabilities takes care of probabilities "
            "that are 0"
        )
    return true, scores


def _nll(true: NDArray[np.int64], scores: NDArray[np.floating], temperature: float) -> float:
    total = 0.0
    for rows in row_chunks(scores.shape):
        logs = scaled_log_probabilities(scores[rows], temperature)
        total -= float(logs[np.arange(len(logs)), true[rows]].sum())
    return total / len(true)


def _all_right(true: NDArray[np.int64], scores: NDArray[np.floating]) -> bool:
    parts = ((scores[rows], true[rows]) for rows in row_chunks(scores.shape))
    return all((part[np.arange(len(own)), own] == part.max(axis=1)).all() for part, own in parts)


def _keep_classes(probabilities: NDArray[np.float32], classes: NDArray[np.int64]) -> None:
    """Undo what rounding to fp32 did to the order: two near values may have become equal."""
    rows = np.flatnonzero(probabilities.argmax(axis=1) != classes)
    largest = probabilities[rows].max(axis=1, initial=0.0)
    probabilities[rows, classes[rows]] = np.nextafter(largest, np.float32(np.inf))


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise InputError(f"a temperature is a positive number, not {temperature}")


def _checked_probabilities(probabilities: ArrayLike) -> NDArray[np.floating]:
    given = np.asarray(probabilities)
    if given.dtype.kind != "f" or given.ndim != 2 or not given.shape[1]:
        raise InputError(
            f"probabilities must be floats [n, classes], not {given.dtype} {list(given.shape)}"
        )
    for rows in row_chunks(given.shape):
        if not (np.isfinite(given[rows]).all() and (given[rows] >= 0).all()):
            raise InputError("probabilities must be finite and not negative")
    return given
