import pytest
import torch

from gpuopt.engine.forward import forward_of
from gpuopt.tta import apply_view, parse_views
from tests.engine.conftest import pictures

EXACT = [{}, {"rotate": 90}, {"rotate": 180}, {"rotate": 270}, {"hflip": True}, {"vflip": True}]
COMPUTED = [{"rotate": 7}, {"scale": 0.9}, {"brightness": 1.3}, {"gamma": 0.8}, {"blur": 1.0}]


class Echo:
    """An engine that returns each image's pixels as logits, and notes what it was given."""

    name, precision = "echo", "fp32"
    device = torch.device("cpu")

    def __init__(self, most=4):
        self.max_batch_size, self.sizes = most, []

    def __call__(self, images):
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert not torch.is_autocast_enabled("cpu")
        self.sizes.append(len(images))
        return images.flatten(1).float()


@pytest.mark.parametrize("view", parse_views(EXACT), ids=lambda view: view.name)
def test_turns_and_mirrors_stay_exact(view):
    seen = apply_view(view, pictures(4))
    assert torch.equal(forward_of(Echo())(seen), seen.flatten(1))


@pytest.mark.parametrize("view", parse_views(COMPUTED), ids=lambda view: view.name)
def test_computed_views_move_by_half_a_level_at_most(view):
    seen = apply_view(view, pictures(4))
    moved = (forward_of(Echo())(seen) - seen.clamp(0, 255).flatten(1)).abs()
    assert 0 < moved.max() <= 0.5


def test_more_images_than_fit_go_in_parts_and_uint8_goes_as_it_is():
    engine = Echo(most=4)
    images = pictures(10)
    with torch.autocast("cpu", torch.bfloat16):
        found = forward_of(engine)(images)
    assert engine.sizes == [4, 4, 2]
    assert torch.equal(found, images.flatten(1).float())
