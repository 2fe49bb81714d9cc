import numpy as np
import pytest
import torch

from gpuopt.errors import InputError
from gpuopt.tta import TtaPredictor, parse_views
from gpuopt.tta.held_out import HeldOutScores
from gpuopt.tta.views import View

VIEWS = parse_views([{}, {"rotate": 90}, {"noise": 8}])
WEIGHTED = parse_views([{"noise": 8, "weight": 3}, {}])


def net(images):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3 * 8 * 8, 5, generator=generator)
    return images.flatten(1) @ weights / 400


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (9, 3, 8, 8), generator=torch.Generator().manual_seed(1)).byte()


def scored(images, kind=np.float32, groups=None):
    """Views one by one, as a prediction with a single view gives them."""
    arrays = [
        TtaPredictor(net, (View(view.operations),))(images).log().numpy().astype(kind)
        for view in VIEWS
    ]
    return HeldOutScores(VIEWS, arrays, np.arange(9) % 5, groups)


@pytest.mark.parametrize("merge", ["mean", "geometric"])
@pytest.mark.parametrize("views", [VIEWS, WEIGHTED, VIEWS[2:]], ids=["all", "weighted", "one"])
@pytest.mark.parametrize(("kind", "error"), [(np.float32, 1e-6), (np.float16, 5e-3)])
def test_merging_what_was_stored_is_predicting(images, views, merge, kind, error):
    found = np.exp(scored(images, kind).merged(views, merge))
    expected = TtaPredictor(net, views, merge=merge)(images).numpy()
    assert np.abs(found - expected).max() < error
    assert (scored(images).classes_by(views, merge) == expected.argmax(1)).all()


def test_images_are_merged_in_blocks(images, monkeypatch):
    whole = scored(images).merged(VIEWS)
    monkeypatch.setattr("gpuopt.tta.held_out._BLOCK_VALUES", 10)
    assert np.array_equal(scored(images).merged(VIEWS), whole)


def test_some_images_are_taken_with_all_that_belongs_to_them(images):
    rows = np.array([7, 0, 3])
    part = scored(images, groups=[f"g{i}" for i in range(9)]).take(rows)
    assert list(part.targets) == [2, 0, 3]
    assert part.groups == ["g7", "g0", "g3"]
    assert np.array_equal(part.merged(VIEWS), scored(images).merged(VIEWS)[rows])


def test_a_probability_of_zero_is_no_end():
    never = np.array([[0.0, -60000.0]], np.float16)
    scores = HeldOutScores(VIEWS[:1], [never], np.array([1]))
    for merge in ("mean", "geometric"):
        assert np.isfinite(scores.merged(VIEWS[:1], merge)).all()


def test_what_does_not_go_together_is_refused(images):
    scores = scored(images)
    with pytest.raises(InputError, match="'rotate 45' was not scored"):
        scores.merged(parse_views([{"rotate": 45}]))
    with pytest.raises(InputError, match="do not go with 3 views"):
        HeldOutScores(VIEWS, scores.log_probabilities[:2], scores.targets)
    with pytest.raises(InputError, match="do not go with 8 images"):
        HeldOutScores(VIEWS, scores.log_probabilities, scores.targets[:8])
