import pytest

from gpuopt.checks.planned_speed import plan_speed
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu
from gpuopt.measure.roofline import Rates, gpu_rates, kept_forward_flops, predict_sample_s
from gpuopt.memory import MemorySetup, predict_memory
from tests.checks.machines import CATALOGUE

MODEL = {"name": "test_vit", "checkpointing": "none"}
CARD = CATALOGUE["rtx3060"]


def test_the_plan_is_what_training_would_predict():
    speed = plan_speed(CARD, MODEL, 64, global_batch_size=64)
    memory = predict_memory(MemorySetup("test_vit", 64, "bf16"))
    assert (speed.precision, speed.image_size) == ("bf16", 64)
    assert speed.largest == memory.largest_batch(CARD.budget_bytes())
    assert (speed.micro_batch_size, speed.checkpointing) == (64, "none")  # the whole global batch
    flops = kept_forward_flops("test_vit", 64)
    rates = gpu_rates(CARD, "bf16")
    assert rates is not None
    sample_s = predict_sample_s(flops, memory.bytes_per_sample, rates)
    assert speed.train_per_s.value == pytest.approx(1 / sample_s)
    assert speed.train_per_s.low < speed.train_per_s.value < speed.train_per_s.high
    assert speed.predict_per_s.value > speed.train_per_s.value
    assert speed.as_dict()["evidence"] == "predicted"


def memory_for(samples, level="none"):
    """Return a card of the memory that so many samples take."""
    memory = predict_memory(MemorySetup("test_vit", 64, "bf16", checkpointing=level))
    free = 1 - (memory.peak_bytes(samples) + 1) / 2**31
    return Gpu("tight", memory_mib=2048, headroom_ratio=free, precision="bf16")


def test_activations_are_recomputed_only_where_too_little_fits():
    tight = plan_speed(memory_for(7), MODEL, 64)
    assert tight.largest == 7
    assert (tight.checkpointing, tight.micro_batch_size > 7) == ("full", True)
    enough = plan_speed(memory_for(9), MODEL, 64)
    assert (enough.checkpointing, enough.micro_batch_size <= 9) == ("none", True)


def test_recomputing_takes_a_third_more_time():
    plain = plan_speed(CARD, MODEL, 64)
    asked = plan_speed(CARD, {**MODEL, "checkpointing": "full"}, 64)
    assert asked.checkpointing == "full"
    assert plain.train_per_s.value == pytest.approx(4 / 3 * asked.train_per_s.value)
    assert plain.predict_per_s == asked.predict_per_s


def test_a_card_without_known_rates_has_no_speed_and_one_without_memory_no_batch():
    speed = plan_speed(Gpu("small", memory_mib=600, precision="bf16"), MODEL, 64)
    assert (speed.train_per_s, speed.predict_per_s) == (None, None)
    assert (speed.largest, speed.micro_batch_size) == (0, 0)


def test_the_processors_are_measured_for_a_prediction(monkeypatch):
    rates = Rates(1e11, 1e10)
    monkeypatch.setattr("gpuopt.checks.planned_speed.cpu_rates", lambda: rates)
    speed = plan_speed(CATALOGUE["cpu"], MODEL, 64, global_batch_size=16)
    assert (speed.precision, speed.largest, speed.micro_batch_size) == ("fp32", None, 16)
    flops = kept_forward_flops("test_vit", 64)
    saved = predict_memory(MemorySetup("test_vit", 64, "fp32")).bytes_per_sample
    assert speed.train_per_s.value == pytest.approx(1 / predict_sample_s(flops, saved, rates))


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="unknown to timm"):
        plan_speed(CARD, {"name": "resnet51"}, 64)
    with pytest.raises(InputError, match="precision=bf16"):
        plan_speed(CATALOGUE["t4"], MODEL, 64, precision="bf16")
