import math
import re

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.memory import FixedMemory, Line, MemoryEstimate, choose_micro_batch

MIB = 2**20
ESTIMATE = MemoryEstimate(
    FixedMemory(parameters=1000 * MIB, context=1000 * MIB), (Line(0, 100 * MIB),), 224
)


def card(memory_mib, **changes):
    return Gpu(name="card", memory_mib=memory_mib, **({"headroom_ratio": 0.0} | changes))


@pytest.mark.parametrize("samples_that_fit", [1, 7, 39, 57, 62, 256, 1000])
@pytest.mark.parametrize("global_batch", [1, 32, 256, 257, 1000])
def test_the_global_batch_is_cut_into_the_fewest_and_most_equal_chunks(
    samples_that_fit, global_batch
):
    choice = choose_micro_batch(card(2000 + 100 * samples_that_fit), ESTIMATE, global_batch)
    micro = choice.value
    assert 1 <= micro <= min(samples_that_fit, global_batch)
    fewest = math.ceil(global_batch / samples_that_fit)
    assert math.ceil(global_batch / micro) == fewest
    assert micro - 1 < global_batch / fewest  # any smaller one needs more chunks
    assert (choice.key, choice.evidence) == ("micro_batch_size", "predicted")


def test_headroom_and_limit_shrink_it():
    assert choose_micro_batch(card(10_000), ESTIMATE, 1000).value == 77  # 80 fit, 13 chunks
    by_itself = choose_micro_batch(card(10_000, headroom_ratio=None), ESTIMATE, 1000)
    assert (by_itself.value, "GiB, 8 % kept free; " in by_itself.reason) == (72, True)
    assert choose_micro_batch(card(10_000, headroom_ratio=0.5), ESTIMATE, 30).value == 30
    assert choose_micro_batch(card(10_000, headroom_ratio=0.5), ESTIMATE, 31).value == 16
    assert choose_micro_batch(card(10_000, memory_limit_mib=2500), ESTIMATE, 1000).value == 5


def test_a_card_too_small_for_one_sample_is_refused_with_the_arithmetic():
    with pytest.raises(InputError, match="not one sample fits gpu=card") as caught:
        choose_micro_batch(card(2099), ESTIMATE, 32)
    parts = [float(x) for x in re.findall(r"([\d.]+) GiB", str(caught.value))]
    context, fixed, sample, total, budget = parts
    assert context + fixed + sample == pytest.approx(total, abs=0.02)
    assert budget <= total
    assert choose_micro_batch(card(2100), ESTIMATE, 32).value == 1


@pytest.mark.parametrize(("global_batch", "expected"), [(256, 32), (32, 32), (5, 5)])
def test_a_cpu_gets_a_bounded_micro_batch_without_an_estimate(global_batch, expected):
    assert choose_micro_batch(Gpu(name="cpu"), None, global_batch).value == expected


@pytest.mark.parametrize(
    ("gpu", "estimate", "global_batch", "message"),
    [
        (Gpu(name="cpu"), None, 0, "0 samples per device"),
        (card(8192), None, 32, "needs a memory estimate"),
        (Gpu(), ESTIMATE, 32, "memory_mib is unknown"),
    ],
)
def test_what_cannot_be_answered_is_refused(gpu, estimate, global_batch, message):
    with pytest.raises(InputError, match=message):
        choose_micro_batch(gpu, estimate, global_batch)
