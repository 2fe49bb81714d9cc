from pathlib import Path
from types import SimpleNamespace

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, load_catalogue, select_gpu

CATALOGUE = load_catalogue(Path(__file__).parents[2] / "conf" / "gpu")


def device(name, memory_mib, capability=(8, 9), sms=128):
    return SimpleNamespace(
        name=name,
        total_memory=memory_mib * 2**20,
        multi_processor_count=sms,
        major=capability[0],
        minor=capability[1],
        clock_rate=2_000_000,
    )


RTX_4090 = device("NVIDIA GeForce RTX 4090", 24_217)


def test_auto_takes_the_preset_of_a_known_card_and_keeps_what_is_pinned():
    gpu, choice = select_gpu(Gpu(memory_limit_mib=6144), RTX_4090, CATALOGUE)
    assert (gpu.name, gpu.tensor_tflops, gpu.memory_limit_mib) == ("RTX 4090", 165.2, 6144)
    assert (choice.key, choice.value, choice.evidence) == ("gpu", "rtx4090", "table")


def test_auto_measures_a_card_that_is_not_listed():
    laptop = device("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376, sms=76)
    gpu, choice = select_gpu(Gpu(), laptop, CATALOGUE)
    assert (gpu.memory_mib, gpu.sm_count, gpu.precision) == (16_376, 76, "bf16")
    assert choice.evidence == "measured"
    assert "in no preset" in choice.reason


@pytest.mark.parametrize("stem", ["auto", "rtx3060"])
def test_without_cuda_every_preset_becomes_the_cpu_and_says_so(stem):
    gpu, choice = select_gpu(CATALOGUE[stem], None, CATALOGUE)
    assert gpu.is_cpu
    assert "no CUDA device" in choice.reason
    assert ("RTX 3060" in choice.reason) == (stem == "rtx3060")


def test_the_cpu_can_be_asked_for_on_a_machine_with_a_gpu():
    gpu, choice = select_gpu(CATALOGUE["cpu"], RTX_4090, CATALOGUE)
    assert gpu.is_cpu
    assert choice.evidence == "given"


def test_a_preset_on_its_own_card_is_used_as_it_is():
    gpu, choice = select_gpu(CATALOGUE["rtx4090"], RTX_4090, CATALOGUE)
    assert gpu == CATALOGUE["rtx4090"]
    assert choice.value == "rtx4090"


@pytest.mark.parametrize(
    ("present", "memory_mib", "precision"),
    [
        (RTX_4090, 12_288, "bf16"),
        (device("NVIDIA GeForce GTX 1660 Ti", 6144, (7, 5), 24), 6144, "fp32"),
        (device("Tesla T4", 15_102, (7, 5), 40), 12_288, "fp16"),
    ],
)
def test_a_preset_on_another_card_takes_what_that_card_can_do(present, memory_mib, precision):
    gpu, choice = select_gpu(CATALOGUE["rtx3060"], present, CATALOGUE)
    assert gpu.name == "RTX 3060 12GB"
    assert (gpu.memory_mib, gpu.precision, gpu.image_size) == (memory_mib, precision, 320)
    assert present.name in choice.reason
    assert "RTX 3060 12GB" in choice.reason


def test_a_limit_above_the_found_memory_is_refused():
    with pytest.raises(InputError, match="memory_limit_mib=99999: above the 24564 MiB"):
        select_gpu(Gpu(memory_limit_mib=99_999), RTX_4090, CATALOGUE)
