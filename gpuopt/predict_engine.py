"""The engine of `gpuopt predict` from its settings, with the images that prove it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuopt.errors import InputError
from gpuopt.run_images import open_run_data, unlabelled_images
from gpuopt.schema import PredictConfig

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.session.engines import PredictionEngines
    from gpuopt.session.ensemble import Ensemble
    from gpuopt.session.pass_plan import PassPlan
    from gpuopt.session.prediction import PredictionSetup

__all__ = ["prediction_engines"]


def prediction_engines(
    config: PredictConfig,
    place: Path,
    ensemble: "Ensemble",
    source: Any,
    setup: "PredictionSetup",
    plan: "PassPlan",
    *,
    tell: Callable[[str], None],
) -> "PredictionEngines":
    """Say what predicts in place of the models of a run.

    Args:
        config: The settings of `gpuopt predict`.
        place: Run folder or checkpoint file.
        ensemble: The models.
        source: What is predicted, which also proves an engine where the run's own images are gone.
        setup: Device and precision.
        plan: Images per call.
        tell: Takes one line for each step.

    Raises:
        InputError: When one engine is given for several models.
    """
    from gpuopt.session.engines import EngineSettings, PredictionEngines, proof_images
    from gpuopt.session.prediction import ImageSource

    if config.engine_path is not None and len(ensemble.paths) > 1:
        raise InputError(
            f"engine_path={config.engine_path} is the engine of one model, and the run has "
            f"{len(ensemble.paths)}: give engine=... instead, which makes one of each"
        )
    size = ensemble.description.image_size
    sources: list[Callable[[], Any]] = []
    if (place / "config.yaml").is_file():
        sources.append(lambda: open_run_data(place, size, config.cache_dir))
    if isinstance(source, ImageSource):
        sources.append(lambda: unlabelled_images(source, size, config.cache_dir))
    else:
        sources.append(lambda: source)
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
        num_classes=len(ensemble.description.class_names),
        batch_size=plan.chunk_size,
        device=setup.torch_device,
        proof=lambda: proof_images(sources),
        tell=tell,
    )
