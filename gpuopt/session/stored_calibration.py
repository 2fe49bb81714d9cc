"""The temperatures that a run has stored, and which of them a prediction takes. Imports no torch.

`calibration.json` may come from a stranger, like all files of a run folder: it is bounded, holds
plain values only, and is refused when it does not make sense or belongs to other weights.
"""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpuopt.choice import Choice
from gpuopt.errors import InputError, one_line
from gpuopt.storage import sha256_of
from gpuopt.tta import TestTimeAugmentation

__all__ = [
    "CALIBRATION",
    "SCHEMA",
    "PolicyTemperature",
    "StoredCalibration",
    "find_calibration",
    "read_calibration",
]

_log = logging.getLogger(__name__)

CALIBRATION = "calibration.json"
SCHEMA = 1
_LARGEST_BYTES = 1 << 20
_MOST_POLICIES = 64
# Wider than the search that fits them.
_TEMPERATURES = (0.01, 100.0)
_LONGEST_NAME = 80
_FITTED_ON = ("out-of-fold images", "validation images")
_Use = Literal["auto", True, False]


@dataclass(frozen=True)
class PolicyTemperature:
    """The temperature of one policy of views.

    Attributes:
        name: What the policy is called.
        fingerprint: What it is, see `TestTimeAugmentation.fingerprint`.
        temperature: 1 where none was better.
        nll_before: Negative log-likelihood of the images it was fitted on, at temperature 1.
        nll_after: At the temperature.
    """

    name: str
    fingerprint: str
    temperature: float
    nll_before: float
    nll_after: float


@dataclass(frozen=True)
class StoredCalibration:
    """What a `calibration.json` says.

    Attributes:
        path: The file.
        images: Number of images that the temperatures were fitted on.
        fitted_on: Which images these were, in words.
        weights: SHA-256 of each checkpoint whose predictions they were.
        policies: That of the run first.
    """

    path: Path
    images: int
    fitted_on: str
    weights: frozenset[str]
    policies: tuple[PolicyTemperature, ...]

    def require_weights(self, digests: Collection[str]) -> None:
        """Refuse to calibrate other models than those whose predictions were fitted.

        Args:
            digests: SHA-256 of each checkpoint that predicts; for folds, some may be missing.

        Raises:
            InputError: When there are other ones.
        """
        if not self.weights.issuperset(digests):
            raise InputError(
                f"{self.path} was fitted for other weights than these: go on with "
                f"resume={self.path.parent}, which fits it anew, or give use_calibration=false"
            )

    def choose(self, policy: TestTimeAugmentation) -> tuple[float, Choice]:
        """Take the temperature of a policy of views, else that of the unchanged image.

        Args:
            policy: The views of the prediction.

        Returns:
            The temperature, and the line that says which and why.
        """
        fingerprint = policy.fingerprint
        own = next((p for p in self.policies if p.fingerprint == fingerprint), None)
        single = TestTimeAugmentation().fingerprint
        taken = own or next(p for p in self.policies if p.fingerprint == single)
        evidence = (
            f"NLL {taken.nll_before:.3f} to {taken.nll_after:.3f} on {self.images} {self.fitted_on}"
        )
        words = f"temperature {taken.temperature:.3f}"
        if own is None:
            why = f"the one without TTA, as none was fitted for the views of tta={policy.name}"
            reason = f"{words}, {why}; {evidence}"
        else:
            reason = f"{words} for tta={policy.name}: {evidence}"
        return taken.temperature, Choice("use_calibration", True, "measured", reason)


def find_calibration(place: Path, use: _Use) -> StoredCalibration | None:
    """Read the calibration of what is predicted with.

    Args:
        place: A run folder or a checkpoint file; one inside a run has the run's calibration.
        use: `use_calibration=`: `auto` takes it where there is one. For the checkpoint of a run,
            where it belongs to these weights.

    Returns:
        None where there is none, or none is wanted.

    Raises:
        InputError: When there is none and there must be one, or when it is damaged.
    """
    if use is False:
        return None
    folder = place
    if place.is_file() and place.absolute().parent.name == "checkpoints":
        folder = place.absolute().parent.parent
    path = folder / CALIBRATION
    if folder.is_dir() and (path.exists() or path.is_symlink()):
        found = read_calibration(path)
        if use is True or place.is_dir() or sha256_of(place) in found.weights:
            return found
        _log.info("%s belongs to other weights than %s and is not used", path, place.name)
        return None
    if use is True:
        remedy = f"fit one with gpuopt train resume={folder} use_calibration=true"
        if not folder.is_dir():
            remedy = "name the folder of its run"
        raise InputError(
            f"use_calibration=true: {place} has no {CALIBRATION}; {remedy}, or leave it out"
        )
    return None


def read_calibration(path: Path) -> StoredCalibration:
    """Read a `calibration.json`.

    Raises:
        InputError: When it cannot be read, is damaged or of another version, in one line.
    """
    try:
        content = _load(path)
        policies = tuple(_policy(item) for item in _list(content, "policies", _MOST_POLICIES))
        weights = frozenset(_digest(item) for item in _list(content, "weights_sha256", 1000))
        images, fitted_on = content["images"], content["fitted_on"]
        if type(images) is not int or not 1 <= images <= 10**12 or fitted_on not in _FITTED_ON:
            raise ValueError("images")
        if TestTimeAugmentation().fingerprint not in {policy.fingerprint for policy in policies}:
            raise ValueError("policies")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = getattr(error, "strerror", None) or one_line(str(error).strip("'"), 60)
        raise InputError(
            f"{path} is damaged or not of this version ({what}): fit it anew with gpuopt train "
            f"resume={path.parent} use_calibration=true, or give use_calibration=false"
        ) from error
    return StoredCalibration(path, images, str(fitted_on), weights, policies)


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as stream:
        text = stream.read(_LARGEST_BYTES + 1)
    if len(text) > _LARGEST_BYTES:
        raise ValueError("it is too large")
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError("schema")
    return content


def _list(content: Mapping[str, Any], key: str, most: int) -> Sequence[Any]:
    found = content[key]
    if not isinstance(found, list) or not 1 <= len(found) <= most:
        raise ValueError(key)
    return found


def _digest(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64:
        raise ValueError("weights_sha256")
    return value


def _policy(item: Mapping[str, Any]) -> PolicyTemperature:
    name, fingerprint = item["name"], item["fingerprint"]
    if not isinstance(name, str) or not isinstance(fingerprint, str):
        raise ValueError("name")
    return PolicyTemperature(
        one_line(name, _LONGEST_NAME),
        fingerprint,
        _number("temperature", item["temperature"], *_TEMPERATURES),
        *(_number("nll", item[when]["nll"]["value"], 0.0, 1e6) for when in ("before", "after")),
    )


def _number(key: str, value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:  # NaN is in no range
        raise ValueError(key)
    return float(value)
