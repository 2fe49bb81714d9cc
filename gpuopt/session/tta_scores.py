"""What policies are worth, as it lies in the folder of their run for `gpuopt check report=tta`."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuopt.errors import InputError, one_line
from gpuopt.measure import Interval
from gpuopt.storage import write_json
from gpuopt.tta.frontier import PolicyScores
from gpuopt.tta.policy import TestTimeAugmentation

__all__ = ["TTA_SCORES", "read_tta_scores", "write_tta_scores"]

TTA_SCORES = "tta_scores.json"
_SCHEMA = 1
_LARGEST_BYTES = 1 << 20
_MOST_POLICIES = 256
_MOST_WEIGHTS = 1000
_LONGEST_PATH = 200


def write_tta_scores(
    folder: Path, weights: Mapping[str, str], images: str, scores: PolicyScores
) -> None:
    """Leave what policies are worth in the folder of their run.

    Options of `tta=` that were scored before stay, where weights and images are the same.

    Args:
        folder: Of the run.
        weights: Digest of each checkpoint, by its path relative to the folder.
        images: Digest of the images that all policies were judged on.
        scores: What the policies are worth.

    Raises:
        OSError: When the folder cannot be written.
    """
    about = {
        "schema": _SCHEMA,
        "weights": dict(weights),
        "images": images,
        "report_images": scores.report_images,
    }
    policies = [policy.as_dict() for policy in scores.policies]
    names = {policy["name"] for policy in policies}
    known = [item for item in _presets(folder / TTA_SCORES, about) if item["name"] not in names]
    content = {**about, "policies": [*policies, *known][: max(len(policies), _MOST_POLICIES)]}
    write_json(folder / TTA_SCORES, content)


def read_tta_scores(path: Path) -> tuple[dict[str, str], int, dict[str, Interval]]:
    """Read such a file.

    Returns:
        The weights as they were given, the number of images, and macro-F1 by the fingerprint of
        a policy: what its name stands for may have changed. Of equal ones the first counts.

    Raises:
        FileNotFoundError: When there is none.
        OSError: When it cannot be read.
        ValueError: When it is damaged, or of another version, in a few words.
    """
    content = _load(path)
    try:
        weights, policies = content["weights"], content["policies"]
        if not isinstance(weights, dict) or not 1 <= len(weights) <= _MOST_WEIGHTS:
            raise ValueError("weights")
        if not isinstance(policies, list) or len(policies) > _MOST_POLICIES:
            raise ValueError("policies")
        images = content["report_images"]
        if type(images) is not int or not 1 <= images <= 10**12:
            raise ValueError("report_images")
        return (
            {_path_inside(name): _text("weights", digest) for name, digest in weights.items()},
            images,
            dict(map(_worth, reversed(policies))),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(one_line(str(error).strip("'"), 60)) from error


def _presets(path: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the options of `tta=` that were scored with the same weights on the same images."""
    with contextlib.suppress(OSError, ValueError):
        read_tta_scores(path)
        content = _load(path)
        if all(content.get(key) == value for key, value in about.items()):
            return [policy for policy in content["policies"] if policy.get("is_preset") is True]
    return []


def _load(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as stream:
        text = stream.read(_LARGEST_BYTES + 1)
    if len(text) > _LARGEST_BYTES:
        raise ValueError("it is too large")
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        raise ValueError("schema")
    return content


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{one_line(text, 20)} is no number")
    return value


def _path_inside(name: str) -> str:
    """Take the path of a checkpoint; whether it lies in the run is told when it is followed."""
    if not 1 <= len(name) <= _LONGEST_PATH or not name.isascii() or not name.isprintable():
        raise ValueError("weights")
    return name


def _worth(policy: Mapping[str, Any]) -> tuple[str, Interval]:
    bounds = (policy["macro_f1"][key] for key in ("value", "low", "high"))
    name, merge = (_text(key, policy[key]) for key in ("name", "merge"))
    scored = TestTimeAugmentation(name, policy["views"], merge)
    try:
        scored.check()
    except (InputError, OverflowError) as error:
        raise ValueError("views") from error
    return scored.fingerprint, Interval(*map(_score, bounds))


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(key)
    return value


def _score(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:  # NaN is in no range
        raise ValueError("macro_f1")
    return float(value)
