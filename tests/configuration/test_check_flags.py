import pytest

from gpuopt.configuration import translate_arguments
from gpuopt.configuration.check_flags import REPORT_OF_FLAG, report_setting
from gpuopt.configuration.limits import CHOICES
from gpuopt.errors import InputError


def test_every_flag_names_a_report():
    assert set(REPORT_OF_FLAG.values()) <= set(CHOICES["report"])


def test_several_flags_are_one_setting_and_others_are_left_out():
    assert report_setting("check", ["detailed"]) == {"report": "detailed"}
    both = report_setting("check", ["detailed", "model", "check_drivers"])
    assert both == {"report": "[detailed,drivers]"}
    # Twice the same.
    assert report_setting("check", ["recommend", "recommend_settings"]) == {"report": "recommend"}
    assert report_setting("check", ["model"]) == report_setting("train", ["detailed"]) == {}


@pytest.mark.parametrize(
    ("typed", "spelled"),
    [
        (["--detailed"], "report=detailed"),
        (["--benchmark", "--detailed"], "report=[benchmark,detailed]"),
        (["--recommend-tta-type", "--model", "convnext_base_384"], "model=convnext_base_384"),
        (["--recommend-tta-type", "--model", "convnext_base_384"], "report=tta"),
    ],
)
def test_check_answers_with_its_own_spelling(typed, spelled):
    with pytest.raises(InputError, match="options are key=value here") as caught:
        translate_arguments("check", typed)
    assert spelled in str(caught.value).split()


def test_another_command_says_who_takes_it():
    with pytest.raises(InputError, match="gpuopt check takes that"):
        translate_arguments("train", ["--compatibility-matrix"])
