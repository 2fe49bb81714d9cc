from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from gpuopt.steps.batch_parts import (
    cut,
    detached,
    join,
    largest_part,
    sample_count,
    spans,
    tensors_of,
)

Pair = namedtuple("Pair", "images weights")


@dataclass
class Record:
    images: torch.Tensor
    names: list


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(10, 10, [10]), (10, 5, [5, 5]), (10, 3, [2, 3, 2, 3]), (9, 4, [3, 3, 3]), (1, 1, [1])],
)
def test_spans_are_few_and_even(count, size, expected):
    found = spans(count, size)
    assert [span.stop - span.start for span in found] == expected
    assert [row for span in found for row in range(span.start, span.stop)] == list(range(count))
    assert largest_part(count, size) == max(expected)


def test_batches_of_every_kind_are_cut_and_keep_their_class():
    images, weights = torch.arange(8).view(4, 2), torch.tensor([1.0, 2.0])
    span = slice(1, 3)
    assert cut(images, span, 4).tolist() == [[2, 3], [4, 5]]
    found = cut({"x": images, "names": ["a", "b", "c", "d"], "w": weights}, span, 4)
    assert found["names"] == ["b", "c"]
    assert torch.equal(found["w"], weights)  # of another length: belongs to every sample
    assert cut([images, torch.tensor(3)], span, 4)[1].ndim == 0
    pair = cut(Pair(images, weights), span, 4)
    assert isinstance(pair, Pair)
    assert len(pair.images) == 2
    record = cut(Record(images, ["a", "b", "c", "d"]), span, 4)
    assert record.names == ["b", "c"]
    assert sample_count(Record(images, [])) == 4
    assert sample_count({"a": torch.tensor(1.0), "b": images}) == 4
    assert sample_count("nothing") == 1


def test_tensors_are_found_in_their_order_wherever_they_are():
    one, two, three, four, five = tensors = [torch.tensor(float(row)) for row in range(5)]
    batch = {"a": [one, "b", (two, None)], "c": Pair(three, 3), "d": Record(four, [five, "e"])}
    assert all(a is b for a, b in zip(tensors_of(batch), tensors, strict=True))
    assert tensors_of([batch, Record]) == tensors_of(batch)
    assert tensors_of("nothing") == []


def test_outputs_are_joined_as_if_from_the_whole_batch():
    parts = [
        {"logits": torch.ones(3, 2), "loss": torch.tensor(1.0), "names": ["a", "b", "c"], "n": 3},
        {"logits": torch.zeros(1, 2), "loss": torch.tensor(5.0), "names": ["d"], "n": 1},
    ]
    joined = join(parts, [3, 1])
    assert joined["logits"].shape == (4, 2)
    assert float(joined["loss"]) == 2.0
    assert joined["names"] == ["a", "b", "c", "d"]
    assert joined["n"] == 1
    pairs = join([(torch.ones(2), torch.tensor(1)), (torch.ones(2), torch.tensor(7))], [2, 2])
    assert len(pairs[0]) == 4
    assert int(pairs[1]) == 7
    assert join([None, None], [1, 1]) is None


def test_detached_outputs_do_not_hold_the_graph():
    value = torch.ones(2, requires_grad=True) * 2
    assert detached({"a": [value]})["a"][0].grad_fn is None
