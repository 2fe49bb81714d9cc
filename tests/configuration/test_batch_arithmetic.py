import math

import pytest

from gpuopt.configuration import settle_batch_sizes
from gpuopt.errors import InputError


def settled(micro="auto", total=None, accumulate=None, devices=1, typed=()):
    config = {
        "micro_batch_size": micro,
        "global_batch_size": total,
        "accumulate_grad_batches": accumulate,
        "trainer": {"devices": devices},
        "seed": 3,
    }
    before = dict(config)
    result = settle_batch_sizes(config, typed)
    assert config == before, "the input must stay as it is"
    assert result["seed"] == 3
    assert result["trainer"] == {"devices": devices}
    assert result["accumulate_grad_batches"] is None
    return result["micro_batch_size"], result["global_batch_size"]


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 7, 64])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_micro_batch_and_accumulation_give_the_global_batch(micro, accumulate, devices):
    found = settled(micro, None, accumulate, devices)
    assert found == (micro, micro * accumulate * devices)


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("total", [32, 100, 256])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_global_batch_and_accumulation_give_the_micro_batch(total, accumulate, devices):
    micro, kept = settled("auto", total, accumulate, devices)
    assert kept == total
    assert math.ceil(math.ceil(total / devices) / micro) == accumulate


def test_micro_batch_and_global_batch_stay():
    assert settled(48, 256) == (48, 256)


def test_what_nothing_determines_stays_automatic():
    assert settled("auto", 256) == ("auto", 256)


def test_a_mode_gives_way_to_the_two_that_were_typed():
    typed = {"micro_batch_size", "accumulate_grad_batches"}
    assert settled(16, 256, 8, typed=typed) == (16, 128)


@pytest.mark.parametrize("devices", [1, 2])
def test_three_that_agree_are_accepted(devices):
    typed = {"micro_batch_size", "accumulate_grad_batches", "global_batch_size"}
    assert settled(16, 128 * devices, 8, devices, typed) == (16, 128 * devices)


def test_three_that_disagree_are_refused_with_the_arithmetic():
    with pytest.raises(InputError) as caught:
        settled(16, 100, 8, 2, {"global_batch_size"})
    message = str(caught.value)
    assert "global_batch_size=100 disagrees with micro_batch_size=16" in message
    assert "trainer.devices=2 x accumulate_grad_batches=8 = 256" in message


def test_an_accumulation_that_no_micro_batch_gives_is_refused():
    with pytest.raises(InputError, match=r"accumulate_grad_batches=8 cannot be had.* takes 5"):
        settled("auto", 10, 8)
    with pytest.raises(InputError, match=r"accumulate_grad_batches=100 cannot be had"):
        settled("auto", 32, 100)


def test_too_little_is_refused():
    with pytest.raises(InputError, match="global_batch_size is not given"):
        settled("auto", None, None)
    with pytest.raises(InputError, match="global_batch_size is not given"):
        settled(16, None, None)
    with pytest.raises(InputError, match="global_batch_size is not given"):
        settled("auto", None, 4)


def test_every_device_needs_a_sample():
    assert settled("auto", 4, devices=4) == ("auto", 4)
    with pytest.raises(InputError, match=r"global_batch_size=3 is smaller than trainer\.devices=4"):
        settled("auto", 3, devices=4)


def test_an_absurd_product_is_refused():
    with pytest.raises(InputError, match="a step has at most 10000000 samples"):
        settled(10_000_000, None, 2)
    assert settled(10_000_000, None, 1) == (10_000_000, 10_000_000)
