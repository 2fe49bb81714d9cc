import io
import json
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from gpuopt.checks import CheckRequest, make_report
from gpuopt.checks.card_fit import SeedFit
from gpuopt.checks.fit import WAYS
from gpuopt.configuration.limits import CHOICES
from gpuopt.errors import InputError
from gpuopt.hardware import AbsentGpu, SeedRow, load_catalogue
from gpuopt.memory import MemorySetup, predict_memory
from gpuopt.schema import CONF_DIR

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
CARDS = {stem: gpu for stem, gpu in CATALOGUE.items() if gpu.memory_mib is not None}
REQUEST = CheckRequest(
    gpu=AbsentGpu(),
    catalogue=CATALOGUE,
    model={"name": "levit_conv_128s", "checkpointing": "none"},
    optimizer={"_target_": "gpuopt.model.AdamW"},
    image_size=224,
)


def ask(**changes):
    return make_report("fit", replace(REQUEST, **changes))


def preset(stem):
    return AbsentGpu(**{**asdict(CATALOGUE[stem]), "seed": CATALOGUE[stem].seed})


@pytest.fixture(scope="module")
def whole():
    """Of a model that neither presets nor options name."""
    return ask()


def test_every_word_of_report_has_a_file():
    for name in CHOICES["report"]:
        assert (CONF_DIR.parent / f"gpuopt/checks/{name}.py").is_file()


def test_the_whole_catalogue_is_answered_least_memory_first(whole):
    assert {card.preset for card in whole.cards} == set(CARDS)
    memories = [card.gpu.memory_mib for card in whole.cards]
    assert memories == sorted(memories)
    assert whole.image_size == 224
    for card in whole.cards:
        assert set(card.largest) == set(WAYS)
        assert 0 < card.largest["plain"] < card.largest["checkpointed"]
        assert card.largest["plain"] < card.largest["predict"]


def test_the_largest_batch_is_the_last_within_the_headroom(whole):
    card = next(card for card in whole.cards if card.preset == "rtx3060")
    memory = predict_memory(MemorySetup("levit_conv_128s", 224, "bf16"))
    largest, budget = card.largest["plain"], CATALOGUE["rtx3060"].budget_bytes()
    assert memory.peak_bytes(largest) <= budget < memory.peak_bytes(largest + 1)


def test_the_guides_batches_are_judged(whole):
    assert {seed.preset for seed in whole.seeds} == {
        stem for stem, gpu in CARDS.items() if gpu.seed and gpu.seed.batch_size
    }
    for seed in whole.seeds:
        samples = CATALOGUE[seed.preset].seed.batch_size
        assert (seed.largest["plain"] >= samples) == (seed.verdict == "fits")


def test_a_table_of_the_seed_is_not_needed_to_know_that_its_batches_are_too_large():
    found = ask(gpu=preset("rtx4090"), model={"name": "convnext_base"}, image_size="auto")
    (seed,) = found.seeds
    assert seed.verdict == "does not fit"
    assert seed.needed_bytes["plain"] > 4 * CATALOGUE["rtx4090"].budget_bytes()


@pytest.mark.parametrize(
    ("needed", "verdict"),
    [
        ({"plain": 1, "checkpointed": 1}, "fits"),
        ({"plain": 2**50, "checkpointed": 1}, "checkpointed only"),
        ({"plain": 2**50, "checkpointed": 2**49}, "does not fit"),
        ({"plain": 2**50}, "does not fit"),
        ({}, "not for this model"),
    ],
)
def test_a_verdict_counts_the_headroom(needed, verdict):
    assert SeedFit("t4", CATALOGUE["t4"], SeedRow(1, 1), needed, {}).verdict == verdict


def test_one_card_and_a_card_without_a_name():
    named, nameless = ask(gpu=preset("rtx2060")), ask(gpu=AbsentGpu(memory_gib=6))
    (card,), (other,) = named.cards, nameless.cards
    assert (card.preset, other.preset) == ("rtx2060", "6 GiB")
    assert card.largest == other.largest
    assert [seed.preset for seed in named.seeds] == ["rtx2060"]
    assert nameless.seeds == []


def test_settings_of_the_card_hold_for_the_whole_catalogue(whole):
    half = ask(gpu=AbsentGpu(headroom_ratio=0.5))
    assert all(
        less.largest["plain"] < more.largest["plain"]
        for less, more in zip(half.cards, whole.cards, strict=True)
    )


def test_a_precision_that_a_card_cannot_compute_in_leaves_its_row_empty():
    found = ask(precision="bf16")
    empty = {card.preset for card in found.cards if card.precision is None}
    assert empty == {stem for stem, gpu in CARDS.items() if gpu.precision != "bf16"}
    for card in found.cards:
        assert (card.largest["plain"] is None) == (card.preset in empty)


def test_a_single_card_that_cannot_compute_in_it_is_refused():
    with pytest.raises(InputError, match="precision=bf16"):
        ask(gpu=preset("t4"), precision="bf16")


def test_the_optimizer_and_the_average_count(whole):
    names = ("plain", "bf16")
    sgd = ask(gpu=preset("h200"), optimizer={"_target_": "gpuopt.model.Sgd"})
    averaged = ask(gpu=preset("h200"), moving_average=True)
    fixed = [found.estimates[names].fixed.total_bytes for found in (sgd, whole, averaged)]
    assert fixed == sorted(fixed)
    assert len(set(fixed)) == 3


def test_a_model_without_checkpointing_says_so_and_has_the_rest():
    found = ask(gpu=preset("t4"), model={"name": "dla34"}, image_size=64)
    (card,) = found.cards
    assert card.largest["checkpointed"] is None
    assert card.largest["plain"] > 0
    assert "no activation checkpointing" in found.refusals["checkpointed"]
    assert "no activation checkpointing" in shown(found)


@pytest.mark.parametrize(
    ("model", "level", "message"),
    [
        ("levit_conv_128s", "stages=99", "stages; give at most that"),
        ("dla34", "full", "no activation checkpointing"),
    ],
)
def test_a_level_that_was_asked_for_and_that_the_model_has_not_is_refused(model, level, message):
    with pytest.raises(InputError, match=message):
        ask(gpu=preset("t4"), model={"name": model, "checkpointing": level}, image_size=64)


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [("levit_conv", 224, "unknown to timm"), ("convnext_tiny", 16, "cannot be predicted")],
)
def test_a_model_that_cannot_be_predicted_is_refused(model, size, message):
    with pytest.raises(InputError, match=message):
        ask(model={"name": model}, image_size=size)


def test_a_size_of_the_guide_that_the_model_does_not_take_is_no_error():
    found = ask(gpu=preset("gtx1660ti"), model={"name": "efficientformer_l1"})  # 224 px alone
    assert found.cards[0].largest["plain"] > 0
    (seed,) = found.seeds
    assert seed.row.image_size == 192
    assert (seed.needed_bytes, seed.largest, seed.verdict) == ({}, {}, "not for this model")


def shown(found, width=100):
    console = Console(width=width, file=io.StringIO())
    console.print(found)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_fit_a_terminal(whole, width):
    text = shown(whole, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text  # nothing is cut off
    for words in ("predicted", "rtx4060ti_16gb", "RTX 4070 Ti", "checkpointed", "cuBLAS", "179.06"):
        assert words in text
    assert "avg." not in text  # no average is kept


def test_json_holds_the_same(whole):
    values = json.loads(json.dumps(whole.as_dict(), allow_nan=False))
    assert values["evidence"] == "predicted"
    assert [row["gpu"] for row in values["cards"]] == [card.preset for card in whole.cards]
    assert values["cards"][0]["largest"] == whole.cards[0].largest
    assert {row["way"] for row in values["memory"]} == set(WAYS)
    assert values["guide"][0]["verdict"] == whole.seeds[0].verdict


def test_progress_passes_every_step_on():
    seen = []

    def track(setups):
        for setup in setups:
            seen.append(setup)
            yield setup

    ask(gpu=AbsentGpu(memory_gib=6), track=track)
    assert len(seen) == len(set(seen)) == len(WAYS)


def test_a_level_that_is_given_is_the_checkpointed_way():
    def largest(level):
        model = {"name": "levit_conv_128s", "checkpointing": level}
        (card,) = ask(gpu=preset("t4"), model=model).cards
        return card.largest

    some, full = largest("stages=1"), largest("full")
    assert full["plain"] == some["plain"] < some["checkpointed"] < full["checkpointed"]
    assert largest("auto") == largest("none") == full
