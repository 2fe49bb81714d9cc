from dataclasses import replace

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.memory import MemorySetup, predict_memory
from gpuopt.schema import CONF_DIR
from gpuopt.session import pass_plan
from gpuopt.session.pass_plan import PassPlan, plan_passes
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.weights import ModelDescription
from gpuopt.tta import TestTimeAugmentation

NAME, SIZE, MIB, GIB = "test_vit", 160, 2**20, 2**30
DESCRIPTION = ModelDescription(NAME, ("a", "b"), SIZE, (0.0,) * 3, (1.0,) * 3)
FIVE = TestTimeAugmentation("five", [{}, *({"rotate": 90 * turn} for turn in range(1, 5))])
CATALOGUE = load_catalogue(CONF_DIR / "gpu")
ESTIMATE = predict_memory(MemorySetup(NAME, SIZE, "bf16", training=False))
WEIGHTS_BYTES = 2 * MIB


def on_card(fit, batch_size=64, extra_bytes=0):
    """A card on which so many images fit, and some bytes more."""
    budget_bytes = ESTIMATE.peak_bytes(fit) + extra_bytes
    card = replace(CATALOGUE["rtx3060"], headroom_ratio=0.0, memory_mib=1)
    card.budget_bytes = lambda: budget_bytes
    return PredictionSetup("cuda", card, "bf16", batch_size, 0, ())


def on_cpu(batch_size=32):
    return PredictionSetup("cpu", CATALOGUE["cpu"], "fp32", batch_size, 0, ())


def plan(setup, policy=FIVE, models=1, weights_bytes=WEIGHTS_BYTES, **options):
    return plan_passes(
        setup, policy, DESCRIPTION, models=models, weights_bytes=weights_bytes, **options
    )


def lines(found):
    return [str(choice) for choice in found.choices]


def test_on_a_card_the_chunk_is_predicted_and_cuts_a_batchs_views_into_equal_parts():
    found = plan(on_card(70, batch_size=100))
    assert found.chunk_size == 63  # 500 views: 8 forwards of 63 instead of 7 of 70 and one of 10
    (line,) = lines(found)
    assert line.startswith("tta.chunk_size=63 (predicted: 70 fit into")
    assert line.endswith("a batch has 100; 500 views of a batch in 8); pin with tta.chunk_size=...")


def test_no_chunk_is_larger_than_a_batch():
    assert plan(on_card(5000, batch_size=512)).chunk_size == 512
    assert plan(on_card(5000, batch_size=8)).chunk_size == 8


def test_what_the_chunk_takes_is_within_the_budget():
    for fit in (1, 2, 3, 17):
        setup = on_card(fit)
        chunk_size = plan(setup).chunk_size
        assert 1 <= chunk_size <= fit
        assert ESTIMATE.peak_bytes(chunk_size) <= setup.gpu.budget_bytes()


@pytest.mark.parametrize(("batch_size", "chunk_size"), [(32, 32), (8, 8), (1, 1), (50, 32)])
def test_on_a_cpu_the_bound_is_stated(batch_size, chunk_size):
    found = plan(on_cpu(batch_size))
    assert found.chunk_size == chunk_size
    assert f"tta.chunk_size={chunk_size} (table: a batch, at most 32 on a CPU;" in lines(found)[0]


def test_a_chunk_that_was_asked_for_is_taken():
    policy = replace(FIVE, chunk_size=7)
    for setup in (on_card(100), on_cpu()):
        assert plan(setup, policy).chunk_size == 7
        assert lines(plan(setup, policy)) == ["tta.chunk_size=7 (given: asked for)"]


def test_a_model_that_cannot_be_followed_takes_a_batch_at_a_time(monkeypatch):
    def unknown(setup, cache_dir):
        raise InputError("its memory cannot be predicted")

    monkeypatch.setattr(pass_plan, "predict_memory", unknown)
    found = plan(on_card(100, batch_size=64), models=5)
    assert (found.chunk_size, found.models_per_pass) == (64, 1)
    assert all("(table: " in line for line in lines(found))


def test_all_folds_share_a_pass_where_their_weights_take_little():
    found = plan(on_card(500), models=5)
    assert found.models_per_pass == 5
    assert "folds_per_pass=5 (predicted: " in lines(found)[1]
    assert "beside those of one; 1 pass over the images)" in lines(found)[1]
    assert found.groups(5) == [range(5)]


def test_the_weights_of_a_pass_leave_less_room_for_the_chunk():
    each = ESTIMATE.varying_bytes(300) - ESTIMATE.varying_bytes(200)
    found = plan(on_card(500, batch_size=256), models=3, weights_bytes=each)
    assert found.models_per_pass == 3
    assert found.chunk_size == 256  # of 300
    found = plan(on_card(400, batch_size=256), models=3, weights_bytes=each)
    assert found.models_per_pass == 3
    assert 180 < found.chunk_size <= 200


def test_folds_that_would_leave_too_little_are_dealt_into_equal_passes():
    each = ESTIMATE.varying_bytes(40) - ESTIMATE.varying_bytes(10)
    setup = on_card(40 + 3 * 30)  # four models leave 40 images, five leave 10
    found = plan(setup, models=5, weights_bytes=each)
    assert found.models_per_pass == 3
    assert found.groups(5) == [range(3), range(3, 5)]
    assert "2 passes over the images" in lines(found)[1]


def test_on_a_small_card_a_pass_does_not_cost_a_single_image():
    found = plan(on_card(10), models=5, weights_bytes=ESTIMATE.varying_bytes(5))
    assert found.models_per_pass == 1


def test_on_a_cpu_a_quarter_of_the_memory_is_for_weights(monkeypatch):
    monkeypatch.setattr(pass_plan, "host_memory_bytes", lambda: 8 * GIB)
    for weights_bytes, expected in ((MIB, 5), (GIB, 2), (5 * GIB, 1), (GIB // 2, 3)):
        found = plan(on_cpu(), models=5, weights_bytes=weights_bytes)
        assert found.models_per_pass == expected
    assert (
        "folds_per_pass=3 (measured: 0.50 GiB of weights each, 2.00 GiB for them"
        in (lines(found)[1])
    )


def test_folds_that_were_asked_for_are_taken():
    assert plan(on_cpu(), models=5, folds_per_pass=2).models_per_pass == 2
    assert plan(on_cpu(), models=3, folds_per_pass=20).models_per_pass == 3
    heavy = ESTIMATE.varying_bytes(100)
    with pytest.raises(InputError, match="not one image fits beside the weights of 4 models"):
        plan(on_card(100), models=4, weights_bytes=heavy, folds_per_pass=4)


def test_one_model_says_nothing_of_folds():
    assert len(plan(on_cpu()).choices) == 1


@pytest.mark.parametrize(("size", "expected"), [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_every_model_is_in_one_pass(size, expected):
    groups = PassPlan(1, size, ()).groups(4)
    assert len(groups) == expected
    assert [number for group in groups for number in group] == [0, 1, 2, 3]
