import random
from collections import deque

import numpy as np
import torch

from gpuopt.steps.plain_state import PlainState


class Owner:
    def __init__(self):
        self.count, self.name, self.rows, self.seen = 1, "a", [1, 2], {1}
        self.table, self.last = {"x": 1}, deque([1], maxlen=3)
        self.numbers, self.other = torch.zeros(2), object()
        self.generators = torch.Generator(), random.Random(0)
        self.torch, self.python = self.generators
        self.numpy, self.legacy = np.random.default_rng(0), np.random.RandomState(0)


def draws(owner):
    return (
        float(torch.rand(1, generator=owner.torch)),
        owner.python.random(),
        float(owner.numpy.random()),
        float(owner.legacy.rand()),
    )


def test_everything_plain_comes_back_and_keeps_its_identity():
    owner = Owner()
    rows, numbers = owner.rows, owner.numbers
    state = PlainState([owner, 3], drops_new=True)
    first = draws(owner)
    owner.count, owner.name = 7, "b"
    owner.rows.append(3)
    owner.seen.clear()
    owner.table["y"] = 2
    owner.last.append(5)
    owner.numbers += 1
    owner.new, owner.lasting = 4, object()
    state.restore()
    assert (owner.count, owner.name, owner.rows, owner.seen) == (1, "a", [1, 2], {1})
    assert (owner.table, list(owner.last), owner.numbers.tolist()) == ({"x": 1}, [1], [0, 0])
    assert owner.rows is rows
    assert owner.numbers is numbers
    assert draws(owner) == first
    assert not hasattr(owner, "new")
    assert hasattr(owner, "lasting")  # not known what it is


def test_an_attribute_that_was_replaced_is_the_old_object_again():
    owner = Owner()
    rows, state = owner.rows, PlainState([owner])
    owner.rows = [9]
    owner.new = 1
    state.restore()
    assert owner.rows is rows
    assert owner.new == 1


def test_large_tensors_of_a_data_set_need_not_be_copied():
    owner = Owner()
    state = PlainState([owner], keeps_tensors=False)
    owner.numbers += 1
    state.restore()
    assert owner.numbers.tolist() == [1, 1]
