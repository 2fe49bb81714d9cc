import numpy as np

from gpuopt.data.repeating_sampler import RepeatingSampler


def test_rows_come_in_order_over_and_over():
    chunks = list(RepeatingSampler(3, 8, 5))
    assert [list(chunk.indices) for chunk in chunks] == [[0, 1, 2, 0, 1], [2, 0, 1]]
    assert np.concatenate([chunk.weights for chunk in chunks]).tolist() == [1.0] * 8
    assert len(RepeatingSampler(3, 8, 5)) == 2


def test_fewer_images_than_rows_are_the_first_ones():
    (chunk,) = RepeatingSampler(100, 4, 5)
    assert list(chunk.indices) == [0, 1, 2, 3]
