from typing import NamedTuple

import numpy as np
import pytest
import torch

from gpuopt.errors import FaultError, InputError
from gpuopt.tta import TtaPredictor, parse_views, predict_loader

VIEWS = parse_views([{}, {"rotate": 90}, {"brightness": 1.3}])


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor


def forward(images):
    """Logits that tell images apart and notice turns."""
    upper, lower = images[:, :, :4].mean((2, 3)), images[:, :, 4:].mean((2, 3))
    return torch.cat((upper, lower), 1) / 20


def batches(sizes, padding=()):
    generator = torch.Generator().manual_seed(3)
    start = 0
    for index, size in enumerate(sizes):
        weights = torch.ones(size)
        for row in padding if index == len(sizes) - 1 else ():
            weights[row] = 0
        yield Batch(
            torch.randint(0, 256, (size, 3, 8, 8), generator=generator).byte(),
            torch.arange(size) % 6,
            torch.arange(start, start + size),
            weights,
        )
        start += size


def test_a_loader_is_predicted_in_order_with_and_without_views():
    done = []
    result = predict_loader(
        batches([4, 4, 3]),
        TtaPredictor(forward, VIEWS),
        with_single_view=True,
        on_batch=done.append,
    )
    assert done == [4, 4, 3]
    assert result.ids.tolist() == list(range(11))
    assert result.targets.tolist() == [0, 1, 2, 3] * 2 + [0, 1, 2]
    assert result.probabilities.shape == result.single_view.shape == (11, 6)
    assert result.probabilities.dtype == result.single_view.dtype == np.float32
    images = torch.cat([batch.images for batch in batches([4, 4, 3])])
    whole = TtaPredictor(forward, VIEWS)(images).numpy()
    np.testing.assert_allclose(result.probabilities, whole, atol=1e-6)
    plain = forward(images.float()).softmax(1).numpy()
    np.testing.assert_allclose(result.single_view, plain, atol=1e-6)
    assert not np.allclose(result.probabilities, result.single_view, atol=1e-3)
    np.testing.assert_array_equal(result.classes, whole.argmax(1))
    np.testing.assert_allclose(result.confidences, whole.max(1), atol=1e-6)


def test_padding_is_dropped():
    padded = predict_loader(batches([4, 4], padding=[1, 3]), TtaPredictor(forward, VIEWS))
    assert padded.ids.tolist() == [0, 1, 2, 3, 4, 6]
    assert padded.single_view is None
    full = predict_loader(batches([4, 4]), TtaPredictor(forward, VIEWS))
    np.testing.assert_allclose(padded.probabilities, full.probabilities[padded.ids], atol=1e-6)


def test_a_batch_of_padding_only_is_passed_over():
    result = predict_loader(batches([3, 2], padding=[0, 1]), TtaPredictor(forward, VIEWS))
    assert result.ids.tolist() == [0, 1, 2]


def test_only_one_batch_is_taken_at_a_time_and_a_callback_may_stop():
    taken = []

    def loader():
        for batch in batches([2, 2, 2]):
            taken.append(len(batch.ids))
            yield batch

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_loader(loader(), TtaPredictor(forward, VIEWS), on_batch=stop)
    assert taken == [2]


def test_nothing_to_predict_is_refused():
    with pytest.raises(InputError, match="nothing to predict"):
        predict_loader([], TtaPredictor(forward, VIEWS))


@pytest.mark.parametrize("merge", ["mean", "geometric"])
def test_outputs_that_are_not_finite_are_a_fault_that_names_a_row(merge):
    def broken(images):
        logits = forward(images)
        logits[1] = float("nan")
        return logits

    predictor = TtaPredictor(broken, VIEWS[:1], chunk_size=4, merge=merge)
    with pytest.raises(FaultError, match=r"1 of 4 images.*row: 1\).*precision=fp32"):
        predict_loader(batches([4]), predictor)
