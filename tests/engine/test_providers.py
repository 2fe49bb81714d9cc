import pytest

from gpuopt.engine.providers import PROVIDERS, choose_provider
from gpuopt.errors import InputError

TENSORRT, RTX, CUDA, CPU = PROVIDERS.values()
AZURE = "AzureExecutionProvider"


@pytest.mark.parametrize(
    ("available", "capability", "chosen", "reason"),
    [
        ([AZURE, CPU], None, "cpu", "cuda: the device is a CPU"),
        ([TENSORRT, RTX, CUDA, CPU], None, "cpu", "tensorrt: the device is a CPU"),
        ([TENSORRT, RTX, CUDA, CPU], (9, 0), "tensorrt", "installed, and the fastest"),
        ([TENSORRT, RTX, CUDA, CPU], (7, 5), "tensorrt", "installed, and the fastest"),
        ([TENSORRT, CUDA, CPU], (7, 0), "cuda", "tensorrt: not for SM 7.0"),
        ([RTX, CUDA, CPU], (8, 6), "tensorrt_rtx", "tensorrt: not installed"),
        ([RTX, CUDA, CPU], (8, 9), "tensorrt_rtx", "tensorrt: not installed"),
        ([RTX, CUDA, CPU], (12, 0), "tensorrt_rtx", "tensorrt: not installed"),
        ([RTX, CUDA, CPU], (7, 5), "cuda", "tensorrt_rtx: not for SM 7.5"),
        ([RTX, CUDA, CPU], (8, 0), "cuda", "tensorrt_rtx: not for SM 8.0"),
        ([RTX, CUDA, CPU], (9, 0), "cuda", "tensorrt_rtx: not for SM 9.0"),
        ([RTX, CUDA, CPU], (10, 0), "cuda", "tensorrt_rtx: not for SM 10.0"),
        ([CUDA, CPU], (9, 0), "cuda", "tensorrt: not installed; tensorrt_rtx: not installed"),
    ],
)
def test_the_first_that_is_installed_and_supports_the_device(available, capability, chosen, reason):
    choice = choose_provider(available, capability)
    assert (choice.key, choice.value, choice.evidence) == ("provider", chosen, "table")
    assert reason in choice.reason
    assert f"provider={chosen} (table: " in str(choice)
    assert f"{chosen}:" not in choice.reason


def test_one_that_is_asked_for_is_taken_or_refused():
    assert choose_provider([TENSORRT, CUDA, CPU], (9, 0), "cuda").evidence == "given"
    for available, capability, asked, reason in [
        ([CUDA, CPU], (9, 0), "tensorrt", "not installed"),
        ([CUDA, CPU], (9, 0), "cpu", "the device is a GPU"),
        ([CUDA, CPU], None, "cuda", "the device is a CPU"),
        ([RTX, CPU], (7, 5), "tensorrt_rtx", "not for SM 7.5"),
    ]:
        with pytest.raises(InputError, match=f"provider={asked}: {reason}; take provider=auto"):
            choose_provider(available, capability, asked)


def test_a_gpu_without_a_provider_is_not_left_to_the_cpu():
    with pytest.raises(InputError, match=r"onnx-gpu.*or take engine=aot_inductor"):
        choose_provider([AZURE, CPU], (9, 0))
