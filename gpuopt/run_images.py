"""The images that engines are proved and timed on: those of a run, or others that are named.

Torch is imported when images are opened.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuopt.errors import InputError
from gpuopt.trained_run import data_of_run

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.data import PredictionImages

__all__ = [
    "given_data",
    "open_data",
    "open_images_of",
    "open_run_data",
    "proof_sources",
    "unlabelled_images",
]


def given_data(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what `data=` names; None for its default, a folder without a name.

    Args:
        node: The settings of an option of `data=`.
    """
    is_folder = str(node["_target_"]).endswith(".ImageFolder")
    return dict(node) if node.get("root") or not is_folder else None


def proof_sources(
    node: Mapping[str, Any], place: Path, image_size: int, cache_dir: str | None
) -> list[Callable[[], Any]]:
    """List where real images may be found: what `data=` names, then the run's own.

    A folder may be where the run's data lie now: its validation images come first then.

    Args:
        node: The settings of `data=`.
        place: Run folder or file of weights.
        image_size: Side in pixels.
        cache_dir: Folder of all caches; None means the user's.

    Returns:
        Functions that each open a data module or `PredictionImages`.
    """
    sources: list[Callable[[], Any]] = []
    is_run, given = (place / "config.yaml").is_file(), given_data(node)
    if given is not None:
        if is_run and given.get("root"):
            sources.append(lambda: _moved_run_data(place, given["root"], image_size, cache_dir))
        sources.append(lambda: open_images_of(given, image_size, cache_dir))
    if is_run:
        sources.append(lambda: open_run_data(place, image_size, cache_dir))
    return sources


def open_run_data(place: Path, image_size: int, cache_dir: str | None) -> Any:
    """Open the data of a run folder, as a data module that is not set up yet.

    Raises:
        InputError: When the folder's configuration is damaged or its data cannot be opened.
    """
    node, split = data_of_run(place)
    return open_data(node, split, image_size, cache_dir=cache_dir)


def open_data(
    node: Mapping[str, Any],
    split: Mapping[str, Any],
    image_size: int,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    cache_dir: str | None,
) -> Any:
    """Build a data module that is not trained on, not set up yet.

    Args:
        node: Its settings.
        split: What decides which images validate.
        image_size: Side in pixels.
        batch_size: Images that are loaded at a time.
        num_workers: Loader processes.
        cache_dir: Folder of decoded images; None means the user's cache folder.

    Raises:
        InputError: When it cannot be opened.
    """
    from gpuopt.build import build

    return build(
        dict(node),
        "data",
        image_size=image_size,
        micro_batch_size=batch_size,
        global_batch_size=batch_size,
        num_workers=num_workers,
        **split,
        cache_dir=cache_dir,
    )


def open_images_of(node: Mapping[str, Any], image_size: int, cache_dir: str | None) -> Any:
    """Open what `data=` names: images without classes, or a data set that brings its own.

    Raises:
        InputError: When there are none, or they cannot be read.
    """
    from gpuopt.session.prediction import source_of

    found = source_of(node)
    if found is not None:
        return unlabelled_images(found, image_size, cache_dir)
    return open_data(node, {"seed": 0}, image_size, cache_dir=cache_dir)


def unlabelled_images(source: Any, image_size: int, cache_dir: str | None) -> "PredictionImages":
    """Open images without classes.

    Args:
        source: An `ImageSource`.
        image_size: Side in pixels.
        cache_dir: Folder of all caches; None means the user's.

    Raises:
        InputError: When they cannot be read.
    """
    from gpuopt.data import PredictionImages, prediction_images

    return PredictionImages(
        prediction_images(source.place, source.image_dir, source.id_column),
        image_size,
        1,
        cache_dir=cache_dir,
        **source.options,
    )


def _moved_run_data(place: Path, root: str, image_size: int, cache_dir: str | None) -> Any:
    """Open the data of a run at another place.

    Raises:
        InputError: When the run's data lie in no folder, or cannot be opened there.
    """
    node, split = data_of_run(place)
    if "root" not in node:
        raise InputError(f"the data of {place} lie in no folder")
    elsewhere = {"test_root": None} if "test_root" in node else {}  # has moved as well
    moved = {**node, "root": root, **elsewhere}
    return open_data(moved, split, image_size, cache_dir=cache_dir)
