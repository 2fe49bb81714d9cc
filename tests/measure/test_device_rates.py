import pytest
import torch

from gpuopt.measure.device_rates import (
    HalfCheck,
    _check,
    _convolution_tflops,
    _copy_gb_per_s,
    _matmul_tflops,
    _Sizes,
    _Timer,
    measure_device_rates,
)

CPU = torch.device("cpu")


def test_every_rate_is_there_and_settings_are_given_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    rates = measure_device_rates(CPU, ["fp32", "bf16"], work_ratio=0.05)
    assert set(rates.matmul_tflops) == set(rates.convolution_tflops) == {"fp32", "bf16"}
    assert all(rate > 0 for rate in rates.matmul_tflops.values())
    assert rates.memory_gb_per_s > 0
    assert (rates.pinned_gb_per_s, rates.pageable_gb_per_s) == (None, None)  # nothing to move
    assert set(rates.checks) == {"bf16"}
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert rates.as_dict()["checks"]["bf16"]["is_finite"]


def test_a_call_is_timed_by_the_median_of_its_stretches():
    now = [0.0]
    durations = iter([9.0, 9.0] + [0.5] + [1.0] * 4 + [1.0] * 4 + [100.0] + [1.0] * 3)

    def work():
        now[0] += next(durations)

    timer = _Timer(CPU, 2.0, lambda: now[0])
    # Two to warm up, one to see that four fit a stretch, then three stretches.
    assert timer.seconds(work) == pytest.approx(1.0)
    assert next(durations, None) is None


class HalfASecond:
    """Times every call alike."""

    device = CPU

    def seconds(self, work):
        work()
        return 0.5


def test_rates_are_operations_and_bytes_over_time():
    sizes = _Sizes(side=64, images=2, channels=8, pixels=10, copied_bytes=1000, stretch_s=0.1)
    timer = HalfASecond()
    assert _matmul_tflops(timer, sizes, "fp32") == pytest.approx(2 * 64**3 / 0.5e12)
    multiplied = 2 * 10 * 10 * 8 * 8 * 9
    assert _convolution_tflops(timer, sizes, "fp32") == pytest.approx(2 * multiplied / 0.5e12)
    assert _copy_gb_per_s(timer, sizes) == pytest.approx((1000 + 1000) / 0.5e9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_fault(dtype):
    check = _check(CPU, dtype)
    assert check.is_finite
    assert 0 < check.difference_ratio < 0.01


def test_a_format_that_gives_nan_is_seen(monkeypatch):
    real = torch.nn.functional.conv2d

    def broken(images, weights, **options):
        maps = real(images, weights, **options)
        return maps if maps.dtype == torch.float32 else maps * float("nan")

    monkeypatch.setattr("torch.nn.functional.conv2d", broken)
    assert isinstance(found := _check(CPU, torch.float16), HalfCheck)
    assert not found.is_finite


@pytest.mark.gpu
def test_a_card_is_measured_with_its_link():
    rates = measure_device_rates(torch.device("cuda"), ["fp32", "bf16"])
    assert rates.pinned_gb_per_s is not None
    assert rates.memory_gb_per_s > 0
