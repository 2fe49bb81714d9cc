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
