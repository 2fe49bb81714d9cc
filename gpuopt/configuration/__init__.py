"""What a composed configuration must fulfil before anything is started. Imports no torch."""

from gpuopt.configuration.batch_arithmetic import settle_batch_sizes
from gpuopt.configuration.limits import check_config, leaves
from gpuopt.configuration.machine import check_machine, check_prediction_places
from gpuopt.configuration.seed_flags import KEYS, SEED_SPELLINGS, translate_arguments
from gpuopt.configuration.signatures import ALLOWED_PACKAGES, check_target, parameters_of

__all__ = [
    "ALLOWED_PACKAGES",
    "KEYS",
    "SEED_SPELLINGS",
    "check_config",
    "check_machine",
    "check_prediction_places",
    "check_target",
    "leaves",
    "parameters_of",
    "settle_batch_sizes",
    "translate_arguments",
]
