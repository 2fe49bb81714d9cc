import pytest
import torch

from gpuopt.measure.logit_difference import compare_logits

LOGITS = torch.tensor([[2.0, 0.0, -2.0], [-2.0, 2.0, 0.0]])


def test_equal_logits_do_not_differ():
    same = compare_logits(LOGITS, LOGITS.clone(), 1e-3)
    assert (same.ratio, same.largest_ratio, same.top1_agreement) == (0.0, 0.0, 1.0)


def test_differences_are_relative_to_the_logits():
    other = LOGITS.clone()
    other[0, 0] += 0.2
    found = compare_logits(LOGITS, other, 1e-3)
    assert found.largest_ratio == pytest.approx(0.1)
    assert found.ratio == pytest.approx((0.04 / 6) ** 0.5 / (16 / 6) ** 0.5)
    shifted = compare_logits(LOGITS + 5, other + 5, 1e-3)  # a shift changes no probability
    assert shifted.ratio == pytest.approx(found.ratio, rel=1e-4)


def test_another_class_counts_where_the_reference_is_sure():
    other = LOGITS.clone()
    other[0] = other[0].flip(0)
    assert compare_logits(LOGITS, other, 1e-3).top1_agreement == 0.5
    assert compare_logits(LOGITS, other, 10.0).top1_agreement is None  # of none is it sure


def test_what_is_not_finite_is_within_no_limit():
    found = compare_logits(LOGITS, LOGITS * float("nan"), 0.3)
    assert not found.ratio <= 0.3
