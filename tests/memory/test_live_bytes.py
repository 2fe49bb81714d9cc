import torch

from gpuopt.memory.live_bytes import LiveBytes


def test_the_peak_is_of_what_is_alive_together():
    with LiveBytes(()) as live:
        first = torch.empty(100, device="meta")
        del first
        second = torch.empty(60, device="meta")
        third = torch.empty(50, device="meta")
    assert second.shape != third.shape
    assert live.peak_bytes == 4 * 110


def test_views_and_existing_tensors_are_not_counted_again():
    weight = torch.empty(1000, device="meta")
    with LiveBytes((weight,)) as live:
        weight.add_(1)
        weight.view(10, 100)
        product = weight[:5] * 2
        product.view(5, 1)
    assert live.peak_bytes == 4 * 5


def test_a_prime_batch_tells_samples_from_the_rest():
    weight = torch.empty(20, 5, device="meta")
    with LiveBytes((weight,), samples=10_007) as live:
        images = torch.empty(10_007, 20, device="meta")
        copy = weight.half()
        product = images.half() @ copy
        del copy
    assert product.shape == (10_007, 5)
    assert live.history[0] == (0, 80)
    assert live.history[1] == (200, 80)
    assert live.history[-1] == (200, 80 + 40 + 10)
    assert live.peak_bytes == 200 + 10_007 * 130
