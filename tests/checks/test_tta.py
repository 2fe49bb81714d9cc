import io
import json
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from gpuopt.checks import CheckRequest, KnownRun, make_report
from gpuopt.errors import InputError
from gpuopt.hardware import AbsentGpu, load_catalogue
from gpuopt.measure import Interval
from gpuopt.schema import CONF_DIR
from gpuopt.session.tta_forecast import forecast_tta_time
from gpuopt.tta import TestTimeAugmentation, parse_views

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
CARDS = {stem: gpu for stem, gpu in CATALOGUE.items() if gpu.memory_mib is not None}
TURNS = [{}, {"rotate": 90}, {"rotate": 180}]
REQUEST = CheckRequest(
    gpu=AbsentGpu(),
    catalogue=CATALOGUE,
    model={"name": "test_vit"},
    optimizer={"_target_": "gpuopt.model.AdamW"},
    image_size=64,
    policies=[TestTimeAugmentation(), TestTimeAugmentation("turns", TURNS)],
    images=10_000_000,
)
SCORED = TestTimeAugmentation("as it was called", TURNS).fingerprint
RUN = KnownRun("test_efficientnet", 32, 5, {SCORED: Interval(0.9, 0.88, 0.92)}, "of 100 images")


def ask(**changes):
    return make_report("tta", replace(REQUEST, **changes))


def preset(stem):
    return AbsentGpu(**{**asdict(CATALOGUE[stem]), "seed": CATALOGUE[stem].seed})


@pytest.fixture(scope="module")
def whole():
    return ask()


def test_every_card_has_its_minutes_and_its_chunk(whole):
    assert {card.preset for card in whole.cards} == set(CARDS)
    memories = [card.gpu.memory_mib for card in whole.cards]
    assert memories == sorted(memories)
    for card in whole.cards:
        time = forecast_tta_time("test_vit", 64, CATALOGUE[card.preset])
        assert card.time == time
        assert card.minutes["turns"] == time.minutes(10_000_000, parse_views(TURNS))
        assert card.minutes["none"].value < card.minutes["turns"].value


def test_without_a_run_nothing_is_said_of_f1_and_why(whole):
    assert whole.worth == {}
    assert "no run is named" in shown(whole)


def test_a_run_brings_model_size_folds_and_worth():
    found = ask(run=RUN, gpu=preset("rtx3060"))
    assert (found.model_name, found.image_size, found.models) == ("test_efficientnet", 32, 5)
    (card,) = found.cards
    alone = ask(run=replace(RUN, models=1), gpu=preset("rtx3060")).cards[0]
    assert card.minutes["turns"].value > 4 * alone.minutes["turns"].value
    text = shown(found)
    assert "the mean of 5 folds" in " ".join(text.split())
    assert "0.900  0.880 to 0.920" in text
    values = found.as_dict()
    assert [policy["macro_f1"] is None for policy in values["policies"]] == [True, False]


def test_a_policy_that_has_changed_has_no_worth_under_its_old_name():
    other = TestTimeAugmentation("turns", [*TURNS, {"hflip": True}])
    assert ask(run=RUN, gpu=preset("rtx3060"), policies=[other]).worth == {}


def test_a_card_that_cannot_compute_so_is_a_row_and_alone_an_error():
    found = ask(precision="bf16")
    refused = {card.preset for card in found.cards if card.time is None}
    assert refused == {stem for stem, gpu in CARDS.items() if gpu.precision != "bf16"}
    assert "cannot" in shown(found)
    with pytest.raises(InputError, match="precision=bf16"):
        ask(gpu=preset("t4"), precision="bf16")
    with pytest.raises(InputError, match="peak rates are unknown"):
        ask(gpu=AbsentGpu(memory_gib=6))


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="unknown to timm"):
        ask(model={"name": "resnet51"})


def shown(found, width=100):
    console = Console(width=width, file=io.StringIO())
    console.print(found)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_a_terminal(whole, width):
    text = shown(whole, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text
    for words in ("predicted", "rtx4060ti_16gb", "turns", "3 views", "1 view"):
        assert words in text


def test_json_holds_the_same(whole):
    values = json.loads(json.dumps(whole.as_dict(), allow_nan=False))
    assert (values["evidence"], values["images"], values["models"]) == ("predicted", 10_000_000, 1)
    (row,) = [row for row in values["cards"] if row["gpu"] == "rtx3060"]
    card = next(card for card in whole.cards if card.preset == "rtx3060")
    assert row["minutes"]["turns"]["value"] == card.minutes["turns"].value
    assert row["chunk_size"] == card.time.chunk_size
