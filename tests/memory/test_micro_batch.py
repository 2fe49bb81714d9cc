import math
import re

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.memory import (
    FixedMemory,
    Line,
    MemoryEstimate,
    StepTime,
    choose_micro_batch,
    choose_prediction_batch,
    cut_global_batch,
)

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


@pytest.mark.parametrize("per_device", [1, 2, 7, 64, 96, 97])
@pytest.mark.parametrize("largest", [1, 3, 10, 64, 1000])
@pytest.mark.parametrize("base", [0.0, 0.02, 5.0])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_no_other_cut_takes_less_time(per_device, largest, base, is_ragged):
    time = StepTime(base, 0.001)

    def seconds(size):
        whole, rest = divmod(per_device, size)
        return whole * time.at(size) + (time.at(rest) if rest else 0.0)

    best = cut_global_batch(largest, per_device, is_ragged=is_ragged)
    sizes = [
        size
        for size in range(1, min(largest, per_device) + 1)
        if is_ragged or per_device % size == 0
    ]
    assert best.micro_batch_size in sizes
    assert best.accumulate_grad_batches == math.ceil(per_device / best.micro_batch_size)
    assert seconds(best.micro_batch_size) <= min(map(seconds, sizes)) + 1e-9


@pytest.mark.parametrize(("fit", "expected"), [(1, 1), (200, 200), (256, 256), (900, 256)])
def test_a_prediction_takes_what_fits_as_far_as_it_gains(fit, expected):
    choice = choose_prediction_batch(card(2000 + 100 * fit), ESTIMATE)
    assert (choice.key, choice.value, choice.evidence) == ("batch_size", expected, "predicted")
    assert choice.reason.startswith(f"{fit} fit: ")


def test_a_prediction_on_a_cpu_is_bounded_and_a_card_too_small_is_refused():
    assert choose_prediction_batch(Gpu(name="cpu"), None).value == 32
    with pytest.raises(InputError, match="batch_size=auto: not one sample fits gpu=card"):
        choose_prediction_batch(card(2099), ESTIMATE)


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
