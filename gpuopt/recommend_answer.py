"""From the settings of `gpuopt recommend_tta` to its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from gpuopt.build import build
from gpuopt.data import ImageDataModule
from gpuopt.finding.route import Route, choose_route
from gpuopt.hardware import Gpu, driver_devices, load_catalogue, process_age_s
from gpuopt.run import fold_folder
from gpuopt.schema import CONF_DIR, RecommendTtaConfig
from gpuopt.session.ensemble import Ensemble
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.recommendation import TtaRecommendation, write_tta_scores
from gpuopt.session.tta_forecast import forecast_tta_time
from gpuopt.session.tta_timing import kept_tta_time
from gpuopt.session.view_passes import HeldOutPart, score_parts
from gpuopt.storage import AnswerCache, default_cache_dir, sha256_of
from gpuopt.trained_run import data_of_run, find_run, folds_of
from gpuopt.tta import TestTimeAugmentation, View
from gpuopt.tta.frontier import PolicyScores, score_policies
from gpuopt.tta.recommender import mark_frontier, recommend
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
    startup_s = process_age_s() or 0.0
    route = choose_route(config.gpu, driver_devices(), None, 1)
    forecast = _forecast(config, ensemble) if route.kind == "predict" else None
    here = _setup(config, ensemble, route)
    parts = _parts(config, place, ensemble, here)
    cache = AnswerCache(Path(config.cache_dir or default_cache_dir()).expanduser() / "tta")
    views = _views_of(policies)
    held_out = score_parts(
        parts, ensemble.description, views, here, cache=cache, show_progress=show_progress
    )
    scores = score_policies(held_out, policies)
    notes = [] if not ensemble.missing else [ensemble.missing_in_words]
    notes += _keep(place, parts, scores)
    if len(parts) > 1:
        notes.append(_OF_FOLDS)
    time = forecast or kept_tta_time(
        parts[0], ensemble.description, here, views, cache, startup_s=startup_s
    )
    images = _images(config, parts[0].data)
    priced = [
        (
            policy,
            time.minutes(
                images.count, policy.views, models=len(parts), is_decoded=images.is_decoded
            ),
        )
        for policy in scores.policies
    ]
    options = mark_frontier(priced)
    return TtaRecommendation(
        run=str(place),
        model_name=ensemble.description.model,
        image_size=ensemble.description.image_size,
        folds=len(parts),
        images=images.count,
        scores=scores,
        time=time,
        options=options,
        recommended=recommend(options, target_minutes=config.target_minutes, min_f1=config.min_f1),
        target_minutes=config.target_minutes,
        min_f1=config.min_f1,
        choices=here.choices,
        notes=notes,
    )


def _keep(place: Path, parts: Sequence[HeldOutPart], scores: PolicyScores) -> list[str]:
    """Leave the scores in the run's folder; returns what there is to say about it."""
    weights = {
        str(part.checkpoint.relative_to(place)): sha256_of(part.checkpoint) for part in parts
    }
    try:
        write_tta_scores(place, weights, scores)
    except OSError as error:
        return [f"the scores are not kept in {place} ({error.strerror})"]
    return []


@dataclass(frozen=True)
class _Images:
    """What will be predicted."""

    count: int
    is_decoded: bool


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


def _images(config: RecommendTtaConfig, data: ImageDataModule) -> _Images:
    if config.images != "auto":
        return _Images(int(config.images), is_decoded=False)
    return _Images(data.test_size, is_decoded=True)
