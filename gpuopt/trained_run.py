"""Find a trained run, its folds and its data, before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuopt.errors import InputError
from gpuopt.run import fold_folder, has_weights, latest_run, read_config

if TYPE_CHECKING:
    from gpuopt.session.weights import ModelDescription

__all__ = ["data_of_run", "describe_run", "find_run", "folds_of"]


def find_run(name: str) -> Path:
    """Find the run folder or checkpoint file that `run=` names, and that there are weights at all.

    Raises:
        InputError: When there is no such run, or it has no checkpoint.
    """
    place = latest_run(trained=True) if name == "latest" else Path(name).expanduser()
    if not place.exists():
        raise InputError(f"run={name} does not exist: name a run folder or a checkpoint file")
    if place.name == "fold_results.yaml":
        place = place.absolute().parent
    if place.is_dir() and not has_weights(place):
        raise InputError(f"run={name} has no checkpoint: name the folder of a trained run")
    return place


def folds_of(place: Path) -> int | None:
    """Return the number of folds of a run of folds; one fold alone is a run like any other."""
    if not (place / "config.yaml").is_file() or any((place / "checkpoints").glob("*.ckpt")):
        return None
    folds = read_config(place).get("folds")
    return folds if isinstance(folds, int) else None


def data_of_run(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the data of a run folder, with what decides its split.

    Returns:
        The settings of its data, and `seed`, with `folds` and `fold` where it is one fold.

    Raises:
        InputError: When the folder's configuration is missing or damaged.
    """
    path = place / "config.yaml"
    stored = read_config(place)
    node, seed = stored.get("data"), stored.get("seed")
    if not isinstance(node, dict) or "_target_" not in node or not isinstance(seed, int):
        raise InputError(
            f"{path} is damaged: it holds no data and seed; restore it or give data=..."
        )
    split = {"seed": seed}
    if stored.get("folds") and folds_of(place) is None:
        split |= {"folds": stored["folds"], "fold": stored["fold"]}
    return node, split


def describe_run(place: Path) -> tuple["ModelDescription", int]:
    """Read what the weights of a run tell of their model.

    Args:
        place: From `find_run`.

    Returns:
        The description, which all folds of a run share, and the number of trained models.

    Raises:
        InputError: When no checkpoint is intact.
    """
    # torch takes seconds to import.
    from gpuopt.session.prediction import find_checkpoint
    from gpuopt.session.weights import read_description
    from gpuopt.storage.checkpoint import read_checkpoint

    folders = [fold_folder(place, fold) for fold in range(folds_of(place) or 0)]
    trained = [folder for folder in folders if has_weights(folder)]
    file = find_checkpoint(trained[0] if trained else place)
    return read_description(read_checkpoint(file), str(file)), len(trained) or 1
