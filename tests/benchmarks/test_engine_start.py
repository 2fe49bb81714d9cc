import json

import pytest

from benchmarks import engine_start
from benchmarks.engine_start import Opened
from gpuopt.errors import FaultError

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def test_a_second_start_builds_nothing(tmp_path, monkeypatch):
    """In this process, since three new ones would take as long as all other tests of engines."""
    monkeypatch.setattr("gpuopt.engine.seal.default_cache_dir", lambda: tmp_path / "seal")
    monkeypatch.setattr(engine_start, "_in_new_process", engine_start.open_engine)
    path = engine_start.main(["--quick", "--output", str(tmp_path), "--device", "cpu"])
    content = json.loads(path.read_text())
    built, second, first_batch = content["rows"]
    assert built["measure"] == "onnx, built"
    assert second["goal"] == "<= 3"
    assert second["verdict"] in ("met", "missed")
    assert first_batch["value"] > 0
    found = content["details"]["onnx"]
    assert [len(start["lines"]) for start in found] == [1, 0, 0]


def test_an_engine_that_was_built_twice_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(
        engine_start, "_in_new_process", lambda *_: Opened(1.0, 1.0, ("built again",))
    )
    with pytest.raises(RuntimeError, match="onnx was built again"):
        engine_start.main(["--quick", "--output", str(tmp_path), "--device", "cpu"])


def test_an_engine_that_fails_costs_only_itself(tmp_path, monkeypatch):
    def start(engine, arguments, folder):
        if engine == "onnx":
            raise FaultError("the provider lacks a library")
        return Opened(1.0, 1.0, ())

    class Available:
        def unavailable(self, device):
            return None

    monkeypatch.setattr(engine_start, "_in_new_process", start)
    monkeypatch.setattr(engine_start, "file_backend", lambda engine: Available())
    words = ["--engines", "onnx", "aot_inductor", "--device", "cpu"]
    path = engine_start.main([*words, "--output", str(tmp_path)])
    content = json.loads(path.read_text())
    assert content["details"]["onnx"] == "the provider lacks a library"
    assert {row["measure"].partition(",")[0] for row in content["rows"]} == {"aot_inductor"}
