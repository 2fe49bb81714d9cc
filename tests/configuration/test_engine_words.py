"""What cannot be meant about engines is refused with the other settings."""

import pytest

from gpuopt.config import compose_settings
from gpuopt.errors import InputError


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("benchmark", ["target=loader"], "target=loader is not one of engines"),
        ("benchmark", ["engines=[onxx]"], "onxx is no engine"),
        ("benchmark", ["optimal_batch_size=9", "max_batch_size=8"], "is above max_batch_size=8"),
        ("benchmark", ["run=a", "engine_path=b"], "not both"),
        ("predict", ["optimize=true", "engine=onnx"], "engine=onnx names one"),
        ("predict", ["engine=eager", "engine_path=b"], "engine=eager is no file"),
    ],
)
def test_it_is_refused(command, words, message):
    with pytest.raises(InputError, match=message):
        compose_settings(command, words)
