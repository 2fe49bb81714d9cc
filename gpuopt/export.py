"""Write a trained model as an engine: a file that classifies faster, proved equal before use."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gpuopt.configuration import check_prediction_places
from gpuopt.entry import checked, run_command
from gpuopt.errors import InputError
from gpuopt.logs import logging_to
from gpuopt.run_images import proof_sources
from gpuopt.schema import CONF_DIR, ExportConfig, to_export_config
from gpuopt.trained_run import find_run, folds_of

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.engine.protocol import EngineRequest
    from gpuopt.session.prediction import PredictionSetup
    from gpuopt.session.weights_file import LoadedNetwork

__all__ = ["export", "main"]


def main() -> None:
    """Run `gpuopt export`."""
    run_command("export", _export, leaves_files=True)


def _export(composed: DictConfig) -> None:
    config = to_export_config(checked(composed))
    with logging_to(None):
        export(config)


def export(config: ExportConfig) -> Path:
    """Build, prove and write the engine.

    Args:
        config: The checked settings.

    Returns:
        The engine's file.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    place = _place(config)
    check_prediction_places(config.data)
    # Only now: torch takes seconds to import, and bad input ends before.
    from gpuopt.engine.export import export_engine, require_free
    from gpuopt.session.console import make_teller
    from gpuopt.session.engines import proof_images

    tell = make_teller()
    loaded = _load(config, place)
    setup = _setup(config, loaded)
    engine, request = _choose(config, loaded, setup, tell)
    output = _output(config, place, engine, request.precision)
    require_free(output)
    sources = proof_sources(config.data, place, loaded.image_size, config.cache_dir)
    with setup.applied():
        found = export_engine(
            engine,
            request,
            loaded.network,
            output,
            (lambda: proof_images(sources)) if sources else None,
            cache_dir=config.cache_dir,
            provider=config.provider,
            tell=tell,
        )
    if found.verification is None:
        tell("not proved: that is done before its first use, or here with data.root=FOLDER")
    tell(f"engine in {found.path}")
    return found.path


def _place(config: ExportConfig) -> Path:
    """Find the weights."""
    if config.checkpoint is None:
        place = find_run(config.run)
        if place.is_dir() and folds_of(place) is not None:
            raise InputError(
                f"run={config.run} holds several models: name one fold, such as "
                f"run={place / 'fold_0'}"
            )
        return place
    if config.run != "latest":
        raise InputError("run= and checkpoint= name two models: give one of them")
    place = Path(config.checkpoint).expanduser()
    if not place.is_file():
        raise InputError(f"checkpoint={config.checkpoint} does not exist: name a file of weights")
    return place


def _load(config: ExportConfig, place: Path) -> "LoadedNetwork":
    from gpuopt.session.prediction import find_checkpoint
    from gpuopt.session.weights_file import load_network

    return load_network(
        find_checkpoint(place),
        model=None if config.model is None else str(config.model["name"]),
        num_classes=config.num_classes,
        image_size=None if config.image_size == "auto" else int(config.image_size),
    )


def _setup(config: ExportConfig, loaded: "LoadedNetwork") -> "PredictionSetup":
    from gpuopt.hardware import load_catalogue
    from gpuopt.session.prediction import PredictionSetup

    return PredictionSetup.choose(
        loaded.description,
        preset=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        precision=config.precision.name,
        batch_size="auto",
        num_workers=0,
        cache_dir=config.cache_dir,
    )


def _choose(
    config: ExportConfig,
    loaded: "LoadedNetwork",
    setup: "PredictionSetup",
    tell: Callable[[str], None],
) -> tuple[str, "EngineRequest"]:
    """Settle the engine and what is asked of it, and say why."""
    import torch

    from gpuopt.engine.choices import engine_batches, engine_precision
    from gpuopt.engine.export import choose_engine
    from gpuopt.engine.protocol import EngineRequest

    device = torch.device(setup.device)
    precision = engine_precision(config.precision.name, device)
    optimal, most = engine_batches(
        config.optimal_batch_size, config.max_batch_size, setup.batch_size
    )
    request = EngineRequest(
        loaded.image_size,
        loaded.num_classes,
        str(precision.value),
        int(optimal.value),
        int(most.value),
        device,
        tuple(config.fp32_layers),
    )
    engine = choose_engine(config.engine, request, config.provider)
    for choice in (setup.choices[0], engine, precision, optimal, most):
        tell(str(choice))
    return str(engine.value), request


def _output(config: ExportConfig, place: Path, engine: str, precision: str) -> Path:
    if config.output is not None:
        return Path(config.output).expanduser()
    from gpuopt.engine.backends import file_backend

    backend = file_backend(engine)
    assert backend is not None  # settled before
    name = f"{engine}_{precision}{backend.suffix}"
    return (place if place.is_dir() else place.parent) / "engines" / name


if __name__ == "__main__":
    main()
