import pytest
import torch

from gpuopt.tta import parse_views
from gpuopt.tta.merging import OnlineMerge

TWO = parse_views([{}, {"rotate": 90, "weight": 3}])


def merged(tables, views=TWO, *, geometric):
    merge = OnlineMerge(views, len(tables[0]), geometric=geometric)
    for view, table in enumerate(tables):
        merge.add(view, 0, torch.tensor(table).log().clamp(min=-10_000))
    return merge.result()


def test_weights_of_views_count_in_both_merges():
    tables = [[[0.2, 0.8]], [[0.6, 0.4]]]
    mean, first = merged(tables, geometric=False)
    assert torch.allclose(mean, torch.tensor([[0.5, 0.5]]))
    assert torch.allclose(first, torch.tensor(tables[0]))
    geometric, _ = merged(tables, geometric=True)
    shares = torch.tensor([0.2**0.25 * 0.6**0.75, 0.8**0.25 * 0.4**0.75])
    assert torch.allclose(geometric, (shares / shares.sum())[None], atol=1e-6)


def test_weights_are_relative():
    tables = [[[0.2, 0.8]], [[0.6, 0.4]]]
    tenfold = parse_views([{"weight": 10}, {"rotate": 90, "weight": 30}])
    for geometric in (False, True):
        one, ten = (merged(tables, views, geometric=geometric)[0] for views in (TWO, tenfold))
        assert torch.allclose(one, ten, atol=1e-7)


def test_a_class_that_one_view_rules_out_is_out_of_a_geometric_mean_only():
    tables = [[[0.0, 0.5, 0.5]], [[0.5, 0.25, 0.25]]]
    geometric, _ = merged(tables, geometric=True)
    assert geometric[0].tolist() == pytest.approx([0, 0.5, 0.5])
    mean, _ = merged(tables, geometric=False)
    assert mean[0].tolist() == pytest.approx([0.375, 0.3125, 0.3125])


def test_views_that_rule_out_all_classes_between_them_leave_numbers():
    geometric, _ = merged([[[0.0, 1.0]], [[1.0, 0.0]]], geometric=True)
    assert geometric.isfinite().all()
    assert geometric.sum().item() == pytest.approx(1)
