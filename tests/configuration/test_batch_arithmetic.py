import math

import pytest
import yaml

from gpuopt.config import compose_settings
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


# --- a schedule, and the learning rate that follows ------------------------------------------


def scheduled(schedule, total=32, typed=(), epochs=8, devices=1, **settings):
    config = {
        "micro_batch_size": "auto",
        "global_batch_size": total,
        "global_batch_schedule": schedule,
        "accumulate_grad_batches": None,
        "trainer": {"devices": devices, "max_epochs": epochs},
        "learning_rate_rule": "none",
        "learning_rate_reference_batch": None,
        **settings,
    }
    result = settle_batch_sizes(config, typed)
    return result["global_batch_size"], result["global_batch_schedule"]


def test_a_schedule_may_name_the_first_epoch():
    assert scheduled({0: 128, 5: 256}) == (128, {5: 256})
    assert scheduled({0: 128, 5: 256}, total=None) == (128, {5: 256})
    assert scheduled({5: 256}) == (32, {5: 256})
    assert scheduled({0: 64}) == (64, None)
    assert scheduled({3: 32, 5: 64}) == (32, {5: 64})  # nothing changes in epoch 3


def test_it_is_settled_once():
    first, later = scheduled({0: 128, 5: 256})
    assert scheduled(later, total=first) == (first, later)


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ({0: 128}, {"total": 64, "typed": ["global_batch_size"]}, "=64 disagrees with .* 128"),
        ({8: 64}, {}, "epoch 8, counted from 0, is never reached with trainer.max_epochs=8"),
        ({2: 1}, {"devices": 2}, "global_batch_size=1 is smaller than trainer.devices=2"),
        (256, {}, "global_batch_schedule=256 names no epochs"),
        ({"x": 5}, {}, "global_batch_schedule: 'x' is no whole number"),
        ({2: "²"}, {}, "global_batch_schedule: epoch 2: '²' is no whole number"),
        ({2: "many"}, {}, "global_batch_schedule: epoch 2: 'many' is no whole number"),
        (None, {"learning_rate_rule": "sqrt"}, "learning_rate_rule=sqrt changes nothing"),
        (None, {"learning_rate_reference_batch": 64}, "changes nothing without a rule"),
    ],
)
def test_what_makes_no_sense_is_refused(schedule, options, message):
    with pytest.raises(InputError, match=message):
        scheduled(schedule, **options)


def test_micro_batch_and_accumulation_must_agree_with_it():
    options = {"micro_batch_size": 16, "accumulate_grad_batches": 2}
    assert scheduled({0: 32, 2: 64}, **options) == (32, {2: 64})
    with pytest.raises(InputError, match="global_batch_size=64 disagrees"):
        scheduled({0: 64}, **options)


def test_a_rule_with_a_reference_batch_or_a_schedule_is_taken():
    assert scheduled(None, learning_rate_rule="sqrt", learning_rate_reference_batch=64)
    assert scheduled({3: 64}, learning_rate_rule="linear")


def test_from_the_command_line():
    words = ["global_batch_schedule={0: 128, 2: 256}", "learning_rate_rule=sqrt"]
    settings = compose_settings("train", words)
    assert settings["global_batch_size"] == 128
    assert settings["global_batch_schedule"] == {2: 256}
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
    with pytest.raises(InputError, match="learning_rate_rule=root is not one of none, linear"):
        compose_settings("train", ["learning_rate_rule=root"])
    with pytest.raises(InputError, match="learning_rate_reference_batch=0 is out of range"):
        compose_settings("train", ["learning_rate_reference_batch=0"])
