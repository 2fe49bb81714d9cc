"""What `gpuopt predict` and `gpuopt export` share: the settings of an engine, and its proof."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuopt.errors import InputError
from gpuopt.schema import PredictConfig
from gpuopt.trained_run import data_of_run

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.data import PredictionImages
    from gpuopt.session.engines import PredictionEngines
    from gpuopt.session.ensemble import Ensemble

__all__ = ["open_data", "open_run_data", "prediction_engines", "unlabelled_images"]


def prediction_engines(
    config: PredictConfig,
    place: Path,
    ensemble: "Ensemble",
    source: Any,
    *,
    batch_size: int,
    tell: Callable[[str], None],
) -> "PredictionEngines":
    """Say what predicts in place of the models of a run.

    Args:
        config: The settings of `gpuopt predict`.
        place: Run folder or checkpoint file.
        ensemble: The models.
        source: What is predicted, which also proves an engine where the run's own images are gone.
        batch_size: Images per call.
        tell: Takes one line for each step.

    Raises:
        InputError: When one engine is given for several models.
    """
    from gpuopt.data import ImageDataModule
    from gpuopt.session.engines import EngineSettings, PredictionEngines, proof_images

    if config.engine_path is not None and len(ensemble.paths) > 1:
        raise InputError(
            f"engine_path={config.engine_path} is the engine of one model, and the run has "
            f"{len(ensemble.paths)}: give engine=... instead, which makes one of each"
        )
    size = ensemble.description.image_size
    sources: list[Callable[[], Any]] = []
    if (place / "config.yaml").is_file():
        sources.append(lambda: open_run_data(place, size, config.cache_dir))
    if isinstance(source, ImageDataModule):
        sources.append(lambda: source)
    else:
        sources.append(lambda: unlabelled_images(source, size, config.cache_dir))
    return PredictionEngines(
        EngineSettings(
            config.engine,
            config.engine_path,
            config.provider,
            config.optimize,
            config.precision.name,
            config.cache_dir,
        ),
        place,
        image_size=size,
        batch_size=batch_size,
        proof=lambda: proof_images(sources),
        tell=tell,
    )


def open_run_data(place: Path, image_size: int, cache_dir: str | None) -> Any:
    """Open the data of a run folder, as a data module that is not set up yet.

    Raises:
        InputError: When the folder's configuration is damaged or its data cannot be opened.
    """
    node, split = data_of_run(place)
    return open_data(node, split, image_size, cache_dir)


def open_data(
    node: dict[str, Any], split: dict[str, Any], image_size: int, cache_dir: str | None
) -> Any:
    """Build a data module that is read for its images alone, not set up yet.

    Args:
        node: Its settings.
        split: What decides which images validate.
        image_size: Side in pixels.
        cache_dir: Folder of decoded images; None means the user's cache folder.

    Raises:
        InputError: When it cannot be opened.
    """
    from gpuopt.build import build

    return build(
        node,
        "data",
        image_size=image_size,
        micro_batch_size=1,
        global_batch_size=1,
        num_workers=0,
        **split,
        cache_dir=cache_dir,
    )


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
