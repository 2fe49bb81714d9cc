import pytest

from gpuopt.hardware import Gpu
from gpuopt.measure.roofline import (
    Rates,
    cpu_rates,
    forward_flops,
    gpu_rates,
    kept_forward_flops,
    predict_forward_s,
    predict_sample_interval_s,
    predict_sample_s,
)

CARD = Gpu(name="c", fp32_tflops=10.0, tensor_tflops=40.0, memory_bandwidth_gb_per_s=500.0)


def test_time_is_arithmetic_plus_traffic_over_the_reached_share():
    rates = Rates(flops_per_s=3e9, bytes_per_s=6.4e9)
    assert predict_sample_s(1e9, 0, rates) == pytest.approx(1 / 0.62)
    assert predict_sample_s(0, 1e9, rates) == pytest.approx(1 / 0.62)
    assert predict_sample_s(1e9, 1e9, rates) == pytest.approx(2 / 0.62)


def test_a_forward_pass_has_a_range():
    rates = Rates(flops_per_s=1e9, bytes_per_s=2.1e9)
    for flops, saved_bytes, parts in ((1e9, 0, 1), (0, 1e9, 1), (1e9, 1e9, 2)):
        found = predict_forward_s(flops, saved_bytes, rates)
        assert found.value == pytest.approx(parts / 0.93)
        assert found.low < found.value < found.high


def test_a_training_step_has_a_range_as_well():
    rates = Rates(flops_per_s=3e9, bytes_per_s=6.4e9)
    found = predict_sample_interval_s(1e9, 1e9, rates)
    assert found.value == predict_sample_s(1e9, 1e9, rates)
    assert found.low == pytest.approx(2 / 0.79)
    assert found.high == pytest.approx(2 / 0.51)


@pytest.mark.parametrize(
    ("precision", "tflops"), [("fp32", 10), ("tf32", 20), ("bf16", 40), ("fp16", 40)]
)
def test_rates_follow_the_precision(precision, tflops):
    assert gpu_rates(CARD, precision) == Rates(tflops * 1e12, 500e9)


def test_a_card_without_tensor_cores_computes_at_its_fp32_rate():
    plain = Gpu(name="c", fp32_tflops=10.0, memory_bandwidth_gb_per_s=500.0)
    for precision in ("fp32", "tf32", "fp16"):
        rates = gpu_rates(plain, precision)
        assert rates is not None
        assert rates.flops_per_s == 10e12


def test_unknown_rates_are_said():
    assert gpu_rates(Gpu(name="c", fp32_tflops=10.0), "fp32") is None
    assert gpu_rates(Gpu(name="c", memory_bandwidth_gb_per_s=5.0), "fp32") is None


def test_operations_of_a_convolutional_network_follow_the_pixels():
    quarter = forward_flops("test_efficientnet", 64)
    assert quarter > 1e6
    assert forward_flops("test_efficientnet", 128) == pytest.approx(4 * quarter, rel=0.05)


def test_operations_are_counted_once_for_all(tmp_path, monkeypatch):
    counted = []

    def count(name, size):
        counted.append((name, size))
        return 1000 + size

    monkeypatch.setattr("gpuopt.measure.roofline.forward_flops", count)
    for size in (64, 64, 96):
        assert kept_forward_flops("test_vit", size, tmp_path) == 1000 + size
    assert counted == [("test_vit", 64), ("test_vit", 96)]


def test_processors_have_positive_rates():
    rates = cpu_rates()
    assert rates.flops_per_s > 0
    assert rates.bytes_per_s > 0
    assert cpu_rates() is rates  # measured once
