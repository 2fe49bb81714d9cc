"""What cannot be meant about tuning is refused with the other settings."""

from dataclasses import fields

import pytest

from gpuopt.config import compose_settings
from gpuopt.configuration.tuning_words import TUNE_KEYS, check_tuning
from gpuopt.errors import InputError
from gpuopt.schema import TrainConfig, TuneConfig


@pytest.mark.parametrize("target", ["loader", "compile", "all"])
def test_every_target_is_taken(target):
    check_tuning(compose_settings("tune", [f"target={target}", "gpu=cpu"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("target=loaders", "is not one of loader, compile, all"),
        ("trainer.devices=2", "one device is tuned"),
        ("run=latest", "tune a training before it starts"),
        ("resume=true", "tune a training before it starts"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        compose_settings("tune", [words])


def test_the_keys_are_those_that_training_has_not():
    ours, trains = ({field.name for field in fields(kind)} for kind in (TuneConfig, TrainConfig))
    assert set(TUNE_KEYS) == ours - trains
