"""How a temperature comes to the batches of a prediction that lies on disk."""

import numpy as np
import torch

from gpuopt.measure import apply_temperature
from gpuopt.session.streamed import StreamOptions

SHARES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.45, 0.45]])


def test_a_temperature_is_applied_and_part_of_what_a_prediction_is():
    plain = StreamOptions(identity={"engine": "eager"})
    options = plain.calibrated(2.0)
    assert options.identity == {"engine": "eager", "temperature": 2.0}
    assert options.identity != plain.calibrated(2.5).identity
    finished = options.finish(SHARES)
    assert finished.dtype == torch.float32
    np.testing.assert_array_equal(finished.numpy(), apply_temperature(SHARES.numpy(), 2.0))
    assert plain.finish is None


def test_it_comes_after_what_else_is_done_to_a_batch():
    swapped = StreamOptions(finish=lambda shares: shares.flip(1)).calibrated(3.0).finish(SHARES)
    expected = apply_temperature(SHARES.flip(1).numpy(), 3.0)
    np.testing.assert_array_equal(swapped.numpy(), expected)
