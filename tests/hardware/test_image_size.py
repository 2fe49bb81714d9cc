import pytest

from gpuopt.hardware import Gpu, choose_image_size
from gpuopt.hardware.policy import recommended_image_size


@pytest.mark.parametrize(
    ("requested", "gpu", "side", "evidence"),
    [
        (160, Gpu(name="card", memory_mib=8192, image_size=288), 160, "given"),
        ("auto", Gpu(name="card", memory_mib=8192, image_size=288), 288, "table"),
        ("auto", Gpu(name="6 GiB", memory_mib=6144), recommended_image_size(6144), "table"),
        ("auto", Gpu(name="24 GiB", memory_mib=24_576), recommended_image_size(24_576), "table"),
        ("auto", Gpu(), 224, "table"),
    ],
)
def test_the_size_is_the_one_asked_for_or_that_of_the_card_or_of_its_memory(
    requested, gpu, side, evidence
):
    choice = choose_image_size(requested, gpu)
    assert (choice.key, choice.value, choice.evidence) == ("image_size", side, evidence)
