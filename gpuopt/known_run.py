"""What `gpuopt check` takes from a trained run: its model, and what views are worth to it."""

from pathlib import Path

from gpuopt.checks.request import KnownRun
from gpuopt.measure import Interval
from gpuopt.trained_run import find_run, folds_of

__all__ = ["known_run"]


def known_run(name: str) -> KnownRun:
    """Read a run.

    Args:
        name: As `run=` has it.

    Raises:
        InputError: When there is no such run, or its weights are not intact.
    """
    place = find_run(name)
    # torch takes seconds to import.
    from gpuopt.session.prediction import find_checkpoint
    from gpuopt.session.weights import read_description
    from gpuopt.storage.checkpoint import read_checkpoint

    folds = folds_of(place)
    found = [place / f"fold_{fold}" for fold in range(folds or 0)]
    trained = [folder for folder in found if any((folder / "checkpoints").glob("*.ckpt"))]
    file = find_checkpoint(trained[0] if trained else place)
    description = read_description(read_checkpoint(file), str(file))
    worth, reason = _worth(place)
    return KnownRun(description.model, description.image_size, len(trained) or 1, worth, reason)


def _worth(place: Path) -> tuple[dict[str, Interval], str]:
    from gpuopt.session.recommendation import TTA_SCORES, read_tta_scores
    from gpuopt.storage import sha256_of

    ask = f"gpuopt recommend_tta run={place}"
    try:
        weights, images, worth = read_tta_scores(place / TTA_SCORES)
    except FileNotFoundError:
        return {}, f"left out, because nothing was scored yet: {ask}"
    except (OSError, ValueError) as error:
        return {}, f"left out, because {TTA_SCORES} is damaged ({error}): {ask}"
    inside = {path: place / path for path in weights}
    is_same = all(
        file.resolve().is_relative_to(place.resolve())
        and file.is_file()
        and sha256_of(file) == weights[path]
        for path, file in inside.items()
    )
    if not is_same:
        return {}, f"left out, because the weights have changed since: {ask}"
    return worth, f"of {images} held-out images of {place}, 95% bootstrap intervals"
