"""From the settings of `gpuopt recommend_tta` to its answer."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from gpuopt.build import build
from gpuopt.data import ImageDataModule
from gpuopt.finding.route import Route, choose_route
from gpuopt.hardware import Gpu, driver_devices, load_catalogue, process_age_s
from gpuopt.measure import Interval
from gpuopt.run import fold_folder
from gpuopt.schema import CONF_DIR, RecommendTtaConfig
from gpuopt.session.ensemble import Ensemble
from gpuopt.session.pass_plan import PassPlan, plan_passes
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.recommendation import TtaRecommendation
from gpuopt.session.tta_forecast import forecast_tta_time
from gpuopt.session.tta_scores import write_tta_scores
from gpuopt.session.tta_timing import kept_tta_time
from gpuopt.session.view_passes import HeldOutPart, digest_of_images, score_parts
from gpuopt.session.weights import ModelDescription
from gpuopt.storage import AnswerCache, default_cache_dir, sha256_of
from gpuopt.trained_run import data_of_run, find_run, folds_of
from gpuopt.tta import TestTimeAugmentation, View
from gpuopt.tta.frontier import PolicyScores, score_policies
from gpuopt.tta.held_out import HeldOutScores
from gpuopt.tta.recommender import Option, mark_frontier, recommend
from gpuopt.tta.time_model import TtaTime

__all__ = ["recommend_for_run"]

_OF_FOLDS = (
    "each image was scored by the one fold that did not train on it; the mean of the folds, which "
    "gpuopt predict takes, is usually better"
)


def recommend_for_run(
    config: RecommendTtaConfig, policies: Sequence[TestTimeAugmentation], *, show_progress: bool
) -> TtaRecommendation:
    """Score the policies of a run, time them, and recommend one.

    Args:
        config: The checked settings.
        policies: Given ones; their views are searched as well.
        show_progress: Draw bars.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    place = find_run(config.run)
    ensemble = Ensemble.open(place, folds=folds_of(place))
    ensemble.load_first()
    startup_s = process_age_s() or 0.0
    route = choose_route(config.gpu, driver_devices(), None, 1)
    forecast = _forecast(config, ensemble) if route.kind == "predict" else None
    work = _open(config, place, ensemble, route, policies)
    scores = score_policies(work.score(show_progress=show_progress), policies)
    time = forecast or work.time(startup_s)
    options = _priced(config, work, scores, time)
    of_folds = [_OF_FOLDS] if len(work.parts) > 1 else []
    missing = [ensemble.missing_in_words] if ensemble.missing else []
    return TtaRecommendation(
        run=str(place),
        model_name=ensemble.description.model,
        image_size=ensemble.description.image_size,
        folds=len(work.parts),
        images=_images(config, work),
        scores=scores,
        time=time,
        options=options,
        recommended=recommend(options, target_minutes=config.target_minutes, min_f1=config.min_f1),
        target_minutes=config.target_minutes,
        min_f1=config.min_f1,
        choices=(*work.setup.choices, *work.plan.choices),
        notes=[*missing, *_keep(place, work.parts, scores), *of_folds],
    )


@dataclass(frozen=True)
class _Work:
    """What is scored and timed here.

    Attributes:
        description: What the models were trained on.
        parts: Each model with the images that it was not trained on.
        views: Of all policies, each once.
        setup: Device, precision and batch.
        plan: What goes through a model at once.
        cache: Of what was scored and timed before.
    """

    description: ModelDescription
    parts: Sequence[HeldOutPart]
    views: tuple[View, ...]
    setup: PredictionSetup
    plan: PassPlan
    cache: AnswerCache

    def score(self, *, show_progress: bool) -> HeldOutScores:
        """Score all views of all parts."""
        return score_parts(
            self.parts,
            self.description,
            self.views,
            self.setup,
            chunk_size=self.plan.chunk_size,
            cache=self.cache,
            show_progress=show_progress,
        )

    def time(self, startup_s: float) -> TtaTime:
        """Measure what a prediction takes on this device."""
        return kept_tta_time(
            self.parts[0],
            self.description,
            self.setup,
            self.views,
            self.cache,
            chunk_size=self.plan.chunk_size,
            startup_s=startup_s,
        )


def _open(
    config: RecommendTtaConfig,
    place: Path,
    ensemble: Ensemble,
    route: Route,
    policies: Sequence[TestTimeAugmentation],
) -> _Work:
    setup, views = _setup(config, ensemble, route), _views_of(policies)
    parts = _parts(config, place, ensemble, setup)
    plan = plan_passes(
        setup,
        TestTimeAugmentation("all", [view.mapping for view in views]),
        ensemble.description,
        models=len(parts),
        weights_bytes=ensemble.weights_bytes(),
        cache_dir=config.cache_dir,
    )
    folder = Path(config.cache_dir or default_cache_dir()).expanduser() / "tta"
    return _Work(ensemble.description, parts, views, setup, plan, AnswerCache(folder))


def _priced(
    config: RecommendTtaConfig, work: _Work, scores: PolicyScores, time: TtaTime
) -> list[Option]:
    """Say what each policy takes, least time first."""
    models = len(work.parts)
    passes = len(work.plan.groups(models)) if time.evidence == "measured" else 1
    images, is_decoded = _images(config, work), config.images == "auto"

    def minutes(views: Sequence[View]) -> Interval:
        return time.minutes(images, views, models=models, passes=passes, is_decoded=is_decoded)

    return mark_frontier([(policy, minutes(policy.views)) for policy in scores.policies])


def _images(config: RecommendTtaConfig, work: _Work) -> int:
    """Count what will be predicted: new images, or the run's own, which lie decoded."""
    return work.parts[0].data.test_size if config.images == "auto" else int(config.images)


def _keep(place: Path, parts: Sequence[HeldOutPart], scores: PolicyScores) -> list[str]:
    """Leave the scores in the run's folder; returns what there is to say about it."""
    weights = {
        str(part.checkpoint.relative_to(place)): sha256_of(part.checkpoint) for part in parts
    }
    images = hashlib.sha256("".join(digest_of_images(part.data) for part in parts).encode())
    try:
        write_tta_scores(place, weights, images.hexdigest(), scores)
    except OSError as error:
        return [f"the scores are not kept in {place} ({error.strerror})"]
    return []


def _setup(config: RecommendTtaConfig, ensemble: Ensemble, route: Route) -> PredictionSetup:
    """Settle device, precision and batch of what runs here."""
    is_absent = route.kind == "predict"
    typed = Gpu(**{field.name: getattr(config.gpu, field.name) for field in fields(Gpu)})
    return PredictionSetup.choose(
        ensemble.description,
        preset=Gpu() if is_absent else typed,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        precision="auto" if is_absent else config.precision.name,
        batch_size="auto" if is_absent else config.batch_size,
        num_workers=config.num_workers,
        cache_dir=config.cache_dir,
    )


def _parts(
    config: RecommendTtaConfig, place: Path, ensemble: Ensemble, setup: PredictionSetup
) -> list[HeldOutPart]:
    """Open the validation images of the run, or of each of its folds."""
    node, split = data_of_run(place)

    def open_data(more: Mapping[str, int]) -> ImageDataModule:
        data: ImageDataModule = build(
            node,
            "data",
            image_size=ensemble.description.image_size,
            micro_batch_size=setup.batch_size,
            global_batch_size=setup.batch_size,
            num_workers=setup.num_workers,
            **split,
            **more,
            cache_dir=config.cache_dir,
        )
        return data

    if ensemble.folds is None:
        return [HeldOutPart(ensemble.paths[0], open_data({}))]
    folds = {fold_folder(place, fold): fold for fold in range(ensemble.folds)}
    return [
        HeldOutPart(path, open_data({"folds": ensemble.folds, "fold": fold}), fold)
        for path in ensemble.paths
        for fold in [folds[path.parents[1]]]
    ]


def _views_of(policies: Sequence[TestTimeAugmentation]) -> tuple[View, ...]:
    """List all views once, the image as it is first."""
    views = [view for policy in policies for view in policy.parsed_views()]
    return tuple(dict.fromkeys([View(), *(View(view.operations) for view in views)]))


def _forecast(config: RecommendTtaConfig, ensemble: Ensemble) -> TtaTime:
    return forecast_tta_time(
        ensemble.description.model,
        ensemble.description.image_size,
        config.gpu.card(),
        precision=config.precision.name,
        batch_size=config.batch_size,
        cache_dir=config.cache_dir,
    )
