"""What `gpuopt check` takes from a trained run: its model, and what views are worth to it."""

from pathlib import Path

from gpuopt.checks.request import KnownRun
from gpuopt.measure import Interval
from gpuopt.trained_run import describe_run, find_run

__all__ = ["known_run"]


def known_run(name: str) -> KnownRun:
    """Read a run.

    Args:
        name: As `run=` has it.

    Raises:
        InputError: When there is no such run, or its weights are not intact.
    """
    place = find_run(name)
    description, models = describe_run(place)
    worth, reason = _worth(place)
    return KnownRun(description.model, description.image_size, models, worth, reason)


def _worth(place: Path) -> tuple[dict[str, Interval], str]:
    from gpuopt.session.tta_scores import TTA_SCORES, read_tta_scores
    from gpuopt.storage import sha256_of

    ask = f"gpuopt recommend_tta run={place}"
    try:
        weights, images, worth = read_tta_scores(place / TTA_SCORES)
    except FileNotFoundError:
        return {}, f"left out, because nothing was scored yet: {ask}"
    except (OSError, ValueError) as error:
        return {}, f"left out, because {TTA_SCORES} is damaged ({error}): {ask}"
    inside = {place / path: digest for path, digest in weights.items()}
    try:
        is_same = all(
            file.resolve().is_relative_to(place.resolve())
            and file.is_file()
            and sha256_of(file) == digest
            for file, digest in inside.items()
        )
    except (OSError, RuntimeError):  # unreadable, or links in a circle
        is_same = False
    if not is_same:
        return {}, f"left out, because the weights have changed since: {ask}"
    return worth, f"of {images} held-out images of {place}, 95% bootstrap intervals"
