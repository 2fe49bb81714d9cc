import pytest

from gpuopt.hardware.policy import (
    has_tensor_cores,
    recommended_headroom_ratio,
    recommended_image_size,
    recommended_num_workers,
    recommended_precision,
)


@pytest.mark.parametrize(
    ("capability", "sm_count", "tensor_cores", "precision"),
    [
        ((6, 1), 28, False, "fp32"),
        ((7, 0), 80, True, "fp16"),
        ((7, 5), 14, False, "fp32"),  # GTX 1650, T400 to T2000
        ((7, 5), 24, False, "fp32"),  # GTX 1660 Ti
        ((7, 5), 30, True, "fp16"),  # RTX 2060
        ((8, 6), 16, True, "bf16"),
        ((13, 0), 10, True, "bf16"),
    ],
)
def test_precision_follows_generation_and_tensor_cores(
    capability, sm_count, tensor_cores, precision
):
    assert has_tensor_cores(capability, sm_count) is tensor_cores
    assert recommended_precision(capability, tensor_cores) == precision


@pytest.mark.parametrize("memory_mib", [2048, 4096, 6144, 8188, 12288, 24564, 183359])
def test_headroom_keeps_at_least_5_percent_and_256_mib(memory_mib):
    ratio = recommended_headroom_ratio(memory_mib)
    assert ratio * memory_mib >= max(0.05 * memory_mib, 256)
    assert 0.08 <= ratio < 0.25


def test_bigger_cards_never_get_less():
    memories = [4096, 6144, 8188, 10240, 11264, 12227, 15102, 24564, 143771]
    sides = [recommended_image_size(memory) for memory in memories]
    assert sides == [224, 224, 256, 288, 288, 320, 384, 384, 384]
    workers = [recommended_num_workers(rate) for rate in (5.0, 50.0, 100.0, 1000.0)]
    assert workers == sorted(workers)
    assert workers[0] == 4
    assert workers[-1] == 16
    assert recommended_num_workers(None) == 4


def test_headroom_is_never_more_than_the_dial_allows():
    assert recommended_headroom_ratio(100) == 0.9
