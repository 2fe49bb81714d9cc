"""Device, precision and passes of `gpuopt predict` from its settings."""

from typing import TYPE_CHECKING

from gpuopt.schema import CONF_DIR, PredictConfig

if TYPE_CHECKING:  # importing these takes seconds
    from gpuopt.session.ensemble import Ensemble
    from gpuopt.session.pass_plan import PassPlan
    from gpuopt.session.prediction import PredictionSetup

__all__ = ["settle_passes"]


def settle_passes(
    config: PredictConfig, ensemble: "Ensemble"
) -> tuple["PredictionSetup", "PassPlan"]:
    """Choose what the settings leave open.

    Args:
        config: The settings of `gpuopt predict`.
        ensemble: The models.

    Returns:
        The machine's part, then the chunk and how many models share a pass.

    Raises:
        InputError: When what is given does not fit the machine.
    """
    from gpuopt.hardware import load_catalogue
    from gpuopt.session.pass_plan import plan_passes
    from gpuopt.session.prediction import PredictionSetup

    description = ensemble.description
    setup = PredictionSetup.choose(
        description,
        preset=config.gpu,
        catalogue=load_catalogue(CONF_DIR / "gpu"),
        precision=config.precision.name,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        cache_dir=config.cache_dir,
    )
    plan = plan_passes(
        setup,
        config.tta,
        description,
        models=len(ensemble.paths),
        weights_bytes=ensemble.weights_bytes(),
        folds_per_pass=config.folds_per_pass,
        cache_dir=config.cache_dir,
    )
    return setup, plan
