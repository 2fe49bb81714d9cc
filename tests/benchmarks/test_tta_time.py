import json
from types import SimpleNamespace

import pytest

from benchmarks import tta_time
from benchmarks.tta_time import Cell, cell_rows
from tests.benchmarks.test_benchmarks import run_quick


def test_every_policy_is_predicted_and_measured(tmp_path):
    content, rows = run_quick(tta_time, tmp_path, "--device", "cpu")
    settings = {row["setting"].rpartition(" x ")[2] for row in content["rows"][:-1]}
    assert settings == {f"{name}, fp32, cpu" for name in ("legacy", "comprehensive", "doc15")}
    assert rows["error of the predicted time"]["goal"] is None  # one for GPUs
    assert 0 <= rows["measured times within what was said"]["value"] <= 3
    (time,) = content["details"]["time"].values()
    assert time["evidence"] == "measured"
    assert len(time["view_s"]) == 27


@pytest.mark.parametrize(("measured_s", "verdict"), [(10.4, "met"), (9.4, "missed")])
def test_the_goal_is_an_error_of_five_percent_on_a_gpu(measured_s, verdict):
    cell = Cell("x", 10.0, measured_s, 0.95, 1.05)
    rows = cell_rows([cell], is_gpu=True)
    error = next(row for row in rows if row.measure == "error of the predicted time")
    assert error.value == pytest.approx(abs(measured_s / 10 - 1))
    assert error.verdict == verdict
    assert rows[-1].value == int(cell.is_in_range) == int(verdict == "met")


def test_each_model_is_saved_when_it_is_done(tmp_path, monkeypatch):
    def cells(setting, *_):
        if setting.model == "b":
            raise RuntimeError("killed")
        return [Cell("first", 1.0, 1.0, 0.9, 1.1)], SimpleNamespace(as_dict=dict)

    monkeypatch.setattr(tta_time, "_model_cells", cells)
    words = ["--models", "a:32", "b:32", "--device", "cpu", "--output", str(tmp_path)]
    with pytest.raises(RuntimeError, match="killed"):
        tta_time.main(words)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["rows"][0]["setting"] == "first"
