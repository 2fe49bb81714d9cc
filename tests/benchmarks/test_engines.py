import json

import pytest
import torch

from benchmarks import engines
from benchmarks.engines import Plain, engine_rows
from gpuopt.engine.protocol import EngineRequest
from gpuopt.engine.race import Timing
from gpuopt.measure.pairs import PairedRatio
from gpuopt.model import ImageNetwork

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def timing(batch_size, ratio, low, high):
    paired = PairedRatio(ratio, low, high, ratio, None, 10)
    return Timing("engine", batch_size, 30, 1, 1, 1, 50.0, 49.0, 51.0, paired)


def test_an_engine_is_proved_and_compared_with_the_plain_network(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "default_cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("gpuopt.engine.seal.default_cache_dir", lambda: tmp_path / "seal")
    path = engines.main(["--quick", "--output", str(tmp_path), "--device", "cpu"])
    content = json.loads(path.read_text())
    rates = [row for row in content["rows"] if row["unit"] == "images/s"]
    ratios = [row for row in content["rows"] if row["unit"] == "times"]
    assert [row["setting"].rpartition(" ")[2] for row in rates] == ["1", "2", "4"]
    assert [row["goal"] for row in ratios] == [None, ">= 2.5", ">= 2.5"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in ratios)
    found = content["details"]["test_efficientnet onnx"]
    assert found["verification"]["agreement"] > 0.99
    assert not found["faults"]
    assert set(found["timings"]) == {"plain", "onnx"}


def test_the_baseline_answers_as_the_network_and_keeps_its_batch_norms():
    torch.manual_seed(0)
    model = ImageNetwork("test_resnet", 3, channels_last=True).eval()
    plain = Plain(model, EngineRequest(32, 3, "fp32", 2, 4, torch.device("cpu")))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), model(images))
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.30, 0.39, "met"), (0.41, 0.5, "missed"), (0.30, 0.5, "not decided")],
)
def test_a_goal_is_decided_by_the_interval_of_the_speed(low, high, verdict):
    (_, alone), (_, several) = (
        engine_rows("onnx", "net", 128, [timing(size, 0.38, low, high)], "cpu") for size in (1, 8)
    )
    assert alone.verdict is None
    assert several.verdict == verdict
    assert several.value == pytest.approx(1 / 0.38)
    assert several.low == pytest.approx(1 / high)


def test_on_a_gpu_the_fastest_engine_of_a_network_has_the_goal():
    timings = {"compiled": timing(32, 0.57, 0.56, 0.58), "eager": timing(32, 0.9, 0.8, 1.0)}
    row = engines._fastest_row("convnext_base", 384, timings)
    assert row.setting == "convnext_base 384 px, batch 32: compiled"
    assert (row.goal, row.verdict) == (">= 1.4", "met")
    assert (
        engine_rows("compiled", "convnext_base", 384, [timing(32, 0.5, 0.4, 0.6)], "cuda")[1].goal
        is None
    )


def test_an_engine_that_is_not_there_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("gpuopt.engine.onnx.Onnx.unavailable", lambda self, device: "not here")
    request = EngineRequest(32, 3, "fp32", 2, 4, torch.device("cpu"))
    subject = engines._Subject("net", None, None, request, None)
    assert engines._measure("onnx", subject, None) == ((), "not here")
