import pytest

from gpuopt.config import compose_settings
from gpuopt.errors import InputError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target=leek"], "target=leek is no diagnosis (nearest: leak, bottleneck)"),
        (["target=leak", "load=train"], "load=train is for target=throttle"),
        (["load=maybe"], "load=maybe is not one of none, train"),
        (["run=latest"], "leave run= and resume= out"),
        (["resume=true"], "leave run= and resume= out"),
        (["trainer.devices=2"], "one device"),
        (["rounds=2"], "rounds=2 is out of range"),
        (["duration=0"], "duration=0.0 is out of range"),
        (["threshold_mib=0"], "threshold_mib=0.0 is out of range"),
        (["interval=0"], "interval=0.0 is out of range"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, message):
    with pytest.raises(InputError) as refused:
        compose_settings("diagnose", words)
    assert message in str(refused.value)


def test_what_can_be_meant():
    settings = compose_settings("diagnose", ["target=throttle", "load=train", "duration=5"])
    assert (settings["target"], settings["load"], settings["duration"]) == ("throttle", "train", 5)
