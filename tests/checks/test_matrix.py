import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from gpuopt.checks import make_report
from gpuopt.errors import InputError
from gpuopt.memory import MemorySetup, predict_memory
from gpuopt.session.tta_forecast import forecast_tta_time
from gpuopt.tta import TestTimeAugmentation, parse_views
from tests.checks.machines import BUILD, CATALOGUE, preset, request

TURNS = [{}, {"rotate": 90}]
POLICIES = [TestTimeAugmentation(), TestTimeAugmentation("turns", TURNS)]


@pytest.fixture(autouse=True)
def _few_models(monkeypatch):
    monkeypatch.setattr("gpuopt.checks.matrix._FITS", (("test_resnet", 96), ("test_vit", 96)))


def ask(**changes):
    return make_report("matrix", request(policies=POLICIES, **changes))


def test_features_follow_from_the_compute_capability():
    rows = {row.preset: row for row in ask().rows}
    assert set(rows) == {stem for stem, gpu in CATALOGUE.items() if gpu.memory_mib}
    features = {
        stem: (rows[stem].tensorrt, rows[stem].tensorrt_rtx, rows[stem].compile)
        for stem in ("v100", "gtx1660ti", "rtx3060", "rtx4090", "h100")
    }
    assert features == {
        "v100": (False, False, "tuned"),
        "gtx1660ti": (True, False, "yes"),
        "rtx3060": (True, True, "yes"),
        "rtx4090": (True, True, "tuned"),
        "h100": (True, False, "tuned"),
    }
    assert rows["gtx1660ti"].precisions == ["fp32"]  # fp16 gives NaN there
    assert rows["t4"].precisions == ["fp32", "fp16"]
    assert rows["rtx3060"].precisions == ["fp32", "fp16", "tf32", "bf16"]
    assert (rows["v100"].is_driven, rows["rtx3060"].is_driven) == (False, True)


def test_fits_and_minutes_are_those_of_the_other_reports():
    (row,) = ask(gpu=preset("rtx3060")).rows
    budget = CATALOGUE["rtx3060"].budget_bytes()
    for model, side in (("test_vit", 64), ("test_resnet", 96), ("test_vit", 96)):
        memory = predict_memory(MemorySetup(model, side, "bf16"))
        assert row.fits[model, side] == memory.largest_batch(budget)
    time = forecast_tta_time("test_vit", 64, CATALOGUE["rtx3060"])
    assert row.tta_minutes["turns"] == time.minutes(1000, parse_views(TURNS))


def test_what_a_card_or_a_model_cannot_is_na():
    found = ask(gpu=preset("rtx3060"), model={"name": "levit_conv_128s"}, image_size=224)
    assert next(iter(found.rows[0].fits)) == ("levit_conv_128s", 224)
    (unknown,) = ask(gpu=replace(preset("rtx3060"), memory_bandwidth_gb_per_s=None)).rows
    assert unknown.tta_minutes == {}
    refused = {row.preset: row for row in ask(precision="bf16").rows}["t4"]
    assert (refused.chosen, set(refused.fits.values()), refused.tta_minutes) == ("", {None}, {})
    with pytest.raises(InputError, match="gpu=cpu"):
        ask(gpu=preset("cpu"))


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_fit_a_terminal(width):
    console = Console(width=width, file=io.StringIO())
    console.print(ask())
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text
    for words in ("TensorRT", "rtx4060ti_16gb", "test resnet", "2 views", "tuned"):
        assert words in text


def test_json_holds_the_same():
    values = json.loads(json.dumps(ask(gpu=preset("rtx3060")).as_dict(), allow_nan=False))
    assert values["architectures"] == list(BUILD.arch_list)
    (card,) = values["cards"]
    assert (card["gpu"], card["tensorrt_rtx"], card["compute_capability"]) == (
        "rtx3060",
        True,
        "8.6",
    )
    assert card["fits"][0]["model"] == "test_vit"
    assert card["tta_minutes"]["turns"]["value"] > 0
