import pytest

from gpuopt.hardware import load_catalogue
from gpuopt.memory import FixedMemory, Line, MemoryEstimate, MemorySetup, predict_memory
from gpuopt.schema import CONF_DIR
from gpuopt.session.checkpointing import choose_checkpointing, wanted_samples

FIT = {"none": 10, "stages=1": 20, "stages=2": 45, "full": 50}


def memory(largest, stages=3):
    """An estimate by which just so many samples fit into 1,000 bytes."""
    return MemoryEstimate(FixedMemory(0), (Line(1000 - 10 * largest, 10),), 64, stages)


def chosen(wanted, fit=FIT):
    asked = []

    def predict(level):
        asked.append(level)
        return memory(fit[level], len(fit) - 1)

    return choose_checkpointing("auto", predict, 1000, wanted), asked


@pytest.mark.parametrize(
    ("wanted", "level", "reason"),
    [
        (10, "none", "10 samples fit, 10 are wanted"),
        (11, "stages=1", "the least with which 11 samples fit: 20 do, 10 with none"),
        (45, "stages=2", "45 do, 20 with stages=1"),
        (46, "full", "50 do, 45 with stages=2"),
        (100, "full", "100 samples fit at no level; 50 do with it, 10 without"),
        (90, "stages=2", "45 do with it"),  # two micro-batches, as with full
    ],
)
def test_the_least_level_that_reaches_the_batch_is_taken(wanted, level, reason):
    choice, asked = chosen(wanted)
    assert choice.key == "model.checkpointing"
    assert (choice.value, choice.evidence) == (level, "predicted")
    assert reason in choice.reason
    assert set(asked) <= set(FIT)
    assert str(choice).endswith("pin with model.checkpointing=...")


def test_a_model_without_stages_keeps_everything():
    choice, _ = chosen(64, {"none": 10})
    assert choice.value == "none"
    assert "no stages" in choice.reason


def test_not_one_sample_at_any_level_is_left_to_the_micro_batch_to_refuse():
    assert chosen(8, dict.fromkeys(FIT, 0))[0].value == "none"


def test_what_was_asked_for_stays_and_a_cpu_needs_none():
    given = choose_checkpointing("stages=2", None, 0, 5)
    assert (given.value, given.evidence) == ("stages=2", "given")
    assert choose_checkpointing("auto", None, 0, 5).value == "none"


@pytest.mark.parametrize(
    ("micro", "expected"), [("auto", 64), (16, 16), (500, 64)], ids=["auto", "given", "capped"]
)
def test_the_wanted_batch_is_the_one_given_or_the_whole(micro, expected):
    assert wanted_samples(micro, 64) == expected


def test_levels_of_a_real_model_take_less_and_less():
    card = load_catalogue(CONF_DIR / "gpu")["rtx3060"]
    setup = MemorySetup("convnext_nano", 224, "bf16")

    def predict(level):
        return predict_memory(MemorySetup(**{**vars(setup), "checkpointing": level}))

    fit = [
        predict(level).largest_batch(card.budget_bytes())
        for level in ("none", "stages=1", "stages=2", "full")
    ]
    assert fit == sorted(fit)
    assert len(set(fit)) == 4
    choice = choose_checkpointing("auto", predict, card.budget_bytes(), fit[1] + 1)
    assert choice.value == "stages=2"
