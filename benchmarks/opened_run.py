"""What `gpuopt predict` opens before it predicts, for programs that time a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gpuopt.config import compose_settings
from gpuopt.predict_engine import prediction_engines
from gpuopt.predict_passes import settle_passes
from gpuopt.schema import PredictConfig, to_predict_config
from gpuopt.session.engines import PredictionEngines
from gpuopt.session.ensemble import Ensemble
from gpuopt.session.forward_pass import autocast_of
from gpuopt.session.pass_plan import PassPlan
from gpuopt.session.prediction import ImageSource, PredictionSetup, source_of
from gpuopt.session.weights import load_described
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.trained_run import find_run, folds_of
from gpuopt.tta import TtaPredictor, View

__all__ = ["OpenedRun"]


@dataclass(frozen=True)
class OpenedRun:
    """A run with all that predicting it was settled to.

    Attributes:
        config: As typed.
        ensemble: The weights.
        setup: Device, precision and batch.
        plan: The chunk, and how many models share a pass.
        source: The images.
        engines: What predicts in place of the models.
    """

    config: PredictConfig
    ensemble: Ensemble
    setup: PredictionSetup
    plan: PassPlan
    source: ImageSource
    engines: PredictionEngines

    @classmethod
    def open(cls, words: Sequence[str]) -> "OpenedRun":
        """Open what the words of a `gpuopt predict` command name.

        Args:
            words: With `run`, `data` and whatever else decides.
        """
        config = to_predict_config(compose_settings("predict", list(words)))
        place = find_run(config.run)
        ensemble = Ensemble.open(place, folds=folds_of(place))
        setup, plan = settle_passes(config, ensemble)
        assert config.data is not None  # these programs name their images
        source = source_of(config.data)
        assert source is not None
        engines = prediction_engines(
            config,
            place,
            ensemble,
            source,
            setup,
            plan,
            tell=lambda line: print(line, flush=True),
        )
        return cls(config, ensemble, setup, plan, source, engines)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.setup.torch_device

    def predictor(self, path: Path, count: int, views: Sequence[View]) -> TtaPredictor:
        """Put a model on the device, or an engine in its place.

        Args:
            path: Its checkpoint.
            count: How many times it predicts each view, as several folds would.
            views: What it predicts.
        """
        file = next(file for file in self.ensemble.files if file.path == path)
        (forward,) = self.engines.reopen([file])
        if forward is None:
            model, _ = load_described(read_checkpoint(path), str(path))
            forward = self.engines.forward_of(model.to(self.device), file)
        return TtaPredictor(
            [forward] * count,
            tuple(views),
            device=self.device,
            chunk_size=self.plan.chunk_size,
            merge=self.config.tta.merge,
            autocast=autocast_of(self.setup.precision, self.device),
        )
