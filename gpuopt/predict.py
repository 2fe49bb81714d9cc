"""Predict the classes of images with a trained run, with any test-time augmentation."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gpuopt.configuration import check_prediction_places
from gpuopt.entry import checked, run_command
from gpuopt.errors import InputError, one_line
from gpuopt.logs import logging_to
from gpuopt.predict_engine import prediction_engines
from gpuopt.predict_passes import settle_passes
from gpuopt.prediction_folder import PREDICTIONS
from gpuopt.run import read_config, remove_empty
from gpuopt.run_images import open_data
from gpuopt.schema import PredictConfig, to_predict_config
from gpuopt.session.prediction_places import (
    place_of_submission,
    require_writable,
    write_predictions,
)
from gpuopt.session.stored_calibration import StoredCalibration, find_calibration
from gpuopt.trained_run import data_of_run, find_run, folds_of

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.session.engines import PredictionEngines
    from gpuopt.session.ensemble import Ensemble
    from gpuopt.session.streamed import StreamOptions

__all__ = ["main", "predict"]


def main() -> None:
    """Run `gpuopt predict`."""
    run_command("predict", _predict, leaves_files=True)


def _predict(composed: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    config = to_predict_config(checked(composed))
    try:
        with logging_to(None):
            predict(config, folder)
    except BaseException:
        if not config.output:  # Hydra made the folder for this command alone
            remove_empty(folder)
        raise


def predict(config: PredictConfig, folder: Path) -> Path:
    """Predict images and write `predictions.csv`, and `submission.csv` for a contest.

    Args:
        config: The checked settings.
        folder: Where the predictions go unless `output` names a file.

    Returns:
        The file of predictions.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    output = Path(config.output).expanduser() if config.output else folder / PREDICTIONS
    place = find_run(config.run)
    node, split = _find_data(config, place)
    calibration = find_calibration(place, config.use_calibration)
    require_writable(output)
    # Both at once only where a prediction was cut short after it had written them.
    is_written = bool(config.resume) and output.exists()
    submission = place_of_submission(node, output, may_exist=is_written)
    # Only now: torch takes seconds to import, and bad input ends before.
    from gpuopt.session.console import make_teller
    from gpuopt.session.contest import contest_of_settings
    from gpuopt.session.ensemble import Ensemble
    from gpuopt.session.prediction import ImageSource, score

    tell = make_teller()
    ensemble = Ensemble.open(place, folds=folds_of(place))
    if ensemble.missing:
        tell(ensemble.missing_in_words)
    description = ensemble.description
    contest = contest_of_settings(node, description.class_names)
    setup, plan = settle_passes(config, ensemble)
    source = _source(config, node, split, description.image_size, setup)
    for choice in (*setup.choices, *plan.choices):
        tell(str(choice))
    temperature = _temperature(config, place, calibration, ensemble, tell)
    engines = prediction_engines(config, place, ensemble, source, setup, plan, tell=tell)
    options = _stream_options(config, engines, temperature)
    predictions = ensemble.predict(setup, plan, config.tta, source, output, options=options)
    interval = score(predictions.targets, predictions.classes)
    written = write_predictions(
        predictions,
        output,
        description.class_names,
        submission=submission,
        contest=contest,
        is_written=is_written,
    )
    for line in predictions.rejected:
        tell(one_line(f"left out: {line}"))
    if interval is not None:
        by = ", by the images' folders" if isinstance(source, ImageSource) else ""
        tell(f"macro-F1 with tta={config.tta.name}{by}: {interval}")
    for path in written:
        tell(f"{len(predictions.ids)} predictions in {path}")
    return output


def _temperature(
    config: PredictConfig,
    place: Path,
    calibration: StoredCalibration | None,
    ensemble: "Ensemble",
    tell: Callable[[str], None],
) -> float | None:
    """Choose what logits are divided by, and say why; None where nothing is calibrated."""
    if calibration is not None:
        calibration.require_weights(ensemble.digests)
        temperature, choice = calibration.choose(config.tta)
        tell(str(choice))
        return temperature
    if config.use_calibration == "auto" and _waits_for_calibration(place):
        tell(f"not calibrated: the run has not come to it yet; go on with resume={place}")
    return None


def _stream_options(
    config: PredictConfig, engines: "PredictionEngines", temperature: float | None
) -> "StreamOptions":
    from gpuopt.session.streamed import StreamOptions

    options = StreamOptions(
        resumes=bool(config.resume),
        cache_dir=config.cache_dir,
        show_progress=sys.stderr.isatty(),
        forwards=engines,
        identity=engines.identity,
    )
    return options if temperature is None else options.calibrated(temperature)


def _waits_for_calibration(place: Path) -> bool:
    """Tell whether a run that was to be calibrated ended before."""
    asked = (place / "config.yaml").is_file() and read_config(place).get("use_calibration")
    return asked is True


def _find_data(config: PredictConfig, place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `data=` names, else the data of the run itself, with what decides its split."""
    if config.data is not None:
        check_prediction_places(config.data)
        return dict(config.data), {"seed": 0}
    if not place.is_dir():
        raise InputError("say what to predict: data=image_folder data.root=FOLDER")
    path = place / "config.yaml"
    if not path.is_file():
        raise InputError(f"run={place} holds no config.yaml: say what to predict with data=...")
    return data_of_run(place)


def _source(
    config: PredictConfig, node: dict[str, Any], split: dict[str, Any], size: int, setup: Any
) -> Any:
    """Open the images that `data=` names, or the test images of the run's own data."""
    from gpuopt.session.prediction import source_of

    if config.data is not None and (found := source_of(node)) is not None:
        return found
    return open_data(
        node,
        split,
        size,
        batch_size=setup.batch_size,
        num_workers=setup.num_workers,
        cache_dir=config.cache_dir,
    )


if __name__ == "__main__":
    main()
