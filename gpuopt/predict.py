"""Predict the classes of images with a trained run, with any test-time augmentation."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gpuopt.entry import checked, run_command
from gpuopt.errors import InputError
from gpuopt.run import RunFolder, latest_run
from gpuopt.schema import CONF_DIR, PredictConfig, to_predict_config

__all__ = ["main"]


def main() -> None:
    """Run `gpuopt predict`."""
    run_command("predict", _predict)


def _predict(composed: DictConfig) -> None:
    config = to_predict_config(checked(composed))
    folder = Path(HydraConfig.get().runtime.output_dir)
    output = Path(config.output) if config.output else folder / "predictions.csv"
    place = latest_run(trained=True) if config.run == "latest" else Path(config.run)
    # Only now: torch and Lightning take seconds to import, and bad input ends before.
    import sys

    from gpuopt.hardware import load_catalogue
    from gpuopt.report import write_predictions_csv
    from gpuopt.session.console import make_console
    from gpuopt.session.prediction import PredictionSetup, find_checkpoint, predict_images, score
    from gpuopt.session.weights import load_described
    from gpuopt.storage.checkpoint import read_checkpoint

    console = make_console()
    checkpoint = find_checkpoint(place)
    model, description = load_described(read_checkpoint(checkpoint), str(checkpoint))
    setup = PredictionSetup.choose(
        description,
        preset=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        precision=config.precision.name,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )
    for choice in setup.choices:
        console.print(str(choice), soft_wrap=True)
    predictions, ids, rejected = predict_images(
        model,
        description,
        setup,
        config.tta,
        _source(config, place, description.image_size, setup.batch_size, setup.num_workers),
        cache_dir=config.cache_dir,
        show_progress=sys.stderr.isatty(),
    )
    write_predictions_csv(
        output,
        ids,
        predictions.probabilities,
        description.class_names,
        predictions.targets.tolist(),
    )
    for line in rejected:
        console.print(f"left out: {line}", soft_wrap=True, markup=False)
    interval = score(predictions)
    if interval is not None:
        console.print(f"macro-F1 with tta={config.tta.name}: {interval}")
    console.print(f"{len(ids)} predictions in {output}", soft_wrap=True)


def _source(
    config: PredictConfig, place: Path, image_size: int, batch_size: int, num_workers: int
) -> Any:
    """Open the images that `data=` names, or the test images of the run's own data."""
    from gpuopt.build import build
    from gpuopt.session.prediction import source_of

    node: Any = config.data
    seed = 0
    if node is None:
        if not place.is_dir():
            raise InputError("say what to predict: data=image_folder data.root=FOLDER")
        stored = RunFolder(place).read_config()
        node, seed = stored["data"], stored["seed"]
    elif (found := source_of(node)) is not None:
        return found
    return build(
        node,
        "data",
        image_size=image_size,
        micro_batch_size=batch_size,
        global_batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        cache_dir=config.cache_dir,
    )


if __name__ == "__main__":
    main()
