import numpy as np
import pytest
import torch

from gpuopt.errors import FaultError, InputError
from gpuopt.tta import TtaPredictor, apply_view, parse_views, predict_loader, score_views
from gpuopt.tta.merging import OnlineMerge
from tests.tta.test_predictions import batches, forward

VIEWS = parse_views([{}, {"rotate": 90}, {"brightness": 1.3, "weight": 2}, {"rotate": 7}])


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 16, 50, "auto"])
def test_every_view_of_every_sample_is_scored_alone(chunk_size):
    scores = score_views(
        batches([4, 4, 3]), forward, VIEWS, chunk_size=chunk_size, dtype=np.float32
    )
    assert scores.ids.tolist() == list(range(11))
    assert scores.targets.tolist() == [0, 1, 2, 3] * 2 + [0, 1, 2]
    assert scores.log_probabilities.shape == (4, 11, 6)
    assert scores.log_probabilities.dtype == np.float32
    assert scores.chunk_size == (4 if chunk_size == "auto" else chunk_size)
    images = torch.cat([batch.images for batch in batches([4, 4, 3])])
    for view, found in zip(VIEWS, scores.log_probabilities, strict=True):
        expected = forward(apply_view(view, images)).log_softmax(1)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("merge", ["mean", "geometric"])
def test_merging_the_scores_is_what_the_predictor_does(merge):
    scores = score_views(batches([4, 3]), forward, VIEWS, dtype=np.float32)
    merged = OnlineMerge(VIEWS, 7, geometric=merge == "geometric")
    for view, of_view in enumerate(scores.log_probabilities):
        merged.add(view, 0, torch.from_numpy(of_view))
    predicted = predict_loader(batches([4, 3]), TtaPredictor(forward, VIEWS, merge=merge))
    np.testing.assert_allclose(merged.result()[0], predicted.probabilities, atol=1e-6)


def test_half_precision_is_the_default_and_padding_is_dropped():
    counted = []
    half = score_views(batches([4, 4], padding=[1, 3]), forward, VIEWS, on_batch=counted.append)
    whole = score_views(batches([4, 4]), forward, VIEWS, dtype=np.float32)
    assert counted == [4, 2]
    assert half.ids.tolist() == [0, 1, 2, 3, 4, 6]
    assert half.log_probabilities.dtype == np.float16
    expected = whole.log_probabilities[:, half.ids]
    assert expected.min() > -8
    np.testing.assert_allclose(half.log_probabilities, expected, atol=0.004)


def test_a_class_that_is_ruled_out_stays_a_number_in_half_precision():
    def certain(images):
        logits = forward(images)
        logits[:, 0] = -torch.inf
        return logits

    scores = score_views(batches([4]), certain, VIEWS)
    assert np.isfinite(scores.log_probabilities).all()
    assert (scores.log_probabilities[:, :, 0] == -10_000).all()


def test_nothing_to_score_and_broken_outputs_are_refused():
    with pytest.raises(InputError, match="nothing to predict"):
        score_views([], forward, VIEWS)
    with pytest.raises(InputError, match="at least one view"):
        score_views(batches([4]), forward, ())
    with pytest.raises(FaultError, match=r"4 of 4 images.*precision=fp32"):
        score_views(batches([4]), lambda images: forward(images) * torch.nan, VIEWS)
