import argparse
import json

import pytest

from benchmarks import record
from benchmarks.record import RESULTS, Row, add_common_arguments, format_rows, save
from benchmarks.table import README, render_table, write_table

ROWS = [
    Row("step, gpuopt / bare loop", "tiny", 1.01, "ratio", 0.99, 1.03, "<= 1.05", "met"),
    Row("step, gpuopt", "tiny", 12.5, "ms"),
]


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    made.add_argument("--steps", type=int, default=3)
    made.add_argument("--image-sizes", type=int, nargs="+", default=[32])
    made.add_argument("--control", action="store_true")
    add_common_arguments(made)
    return made


@pytest.fixture
def store(parser, tmp_path):
    def write(*words):
        arguments = parser.parse_args([*words, "--output", str(tmp_path)])
        return save("step_time", ROWS, arguments, parser, {"segment_step_s": {}})

    return write


def test_a_result_says_all_that_is_needed_to_repeat_it(store):
    content = json.loads(store("--steps", "5").read_text())
    assert set(content) == {
        *("schema", "name", "date_utc", "command", "quick", "settings"),
        *("hardware", "versions", "rows", "details"),
    }
    assert content["date_utc"].endswith("+00:00")
    assert content["settings"]["steps"] == 5
    assert set(content["rows"][0]) == {
        *("measure", "setting", "value", "unit", "low", "high", "goal", "verdict"),
    }
    assert content["rows"][1]["low"] is None
    assert content["hardware"]["cpus"] >= 1
    assert content["versions"]["torch"]
    assert content["versions"]["gpuopt"]


def test_the_recorded_command_gives_the_same_settings(store, parser):
    path = store("--steps", "5", "--image-sizes", "64", "128", "--control", "--quick")
    content = json.loads(path.read_text())
    prefix = ["python", "-m", "benchmarks", "step_time"]
    words = content["command"].split()
    assert words[:4] == prefix
    again = vars(parser.parse_args(words[4:]))
    assert {key: again[key] for key in content["settings"]} == content["settings"]
    assert again["quick"]


def test_the_same_settings_on_the_same_hardware_replace_the_result(store, tmp_path):
    first = store()
    assert store() == first
    assert list(tmp_path.iterdir()) == [first]


def test_other_settings_keep_the_result(store, tmp_path):
    first = store()
    before = first.read_bytes()
    second = store("--steps", "9")
    assert second.name == f"{first.stem}_2.json"
    assert first.read_bytes() == before
    assert store("--steps", "9") == second
    assert store("--quick") not in (first, second)


@pytest.mark.parametrize("damage", ["hardware", "not json", "a list"])
def test_a_file_that_is_not_ours_is_never_overwritten(store, damage):
    first = store()
    content = json.loads(first.read_text())
    content["hardware"]["cpus"] += 1
    first.write_text({"hardware": json.dumps(content), "not json": "{", "a list": "[]"}[damage])
    before = first.read_bytes()
    assert store() != first
    assert first.read_bytes() == before


def test_the_name_of_a_result_names_the_gpu_or_the_cpu(store, monkeypatch):
    machine = record.hardware()
    monkeypatch.setattr(record, "hardware", lambda: {**machine, "gpu": "NVIDIA H200"})
    assert store().name == "step_time_nvidia_h200.json"
    other = {**machine, "gpu": None, "cpu": "AMD EPYC (7)", "cpus": 2}
    monkeypatch.setattr(record, "hardware", lambda: other)
    assert store().name == "step_time_amd_epyc_7_2_cpus.json"


def test_a_quick_run_is_no_result(parser, capsys):
    arguments = parser.parse_args(["--quick"])
    with pytest.raises(SystemExit) as stopped:
        save("step_time", ROWS, arguments, parser, {})
    assert stopped.value.code == 2
    assert "--output" in capsys.readouterr().err


def test_a_table_of_text_has_a_line_per_figure():
    lines = format_rows(ROWS).splitlines()
    assert len(lines) == 2
    assert "0.99 to 1.03" in lines[0]
    assert "goal <= 1.05: met" in lines[0]
    assert lines[1].endswith("12.5 ms")
    assert format_rows([]) == ""


def test_the_page_gets_its_table_between_the_markers(store, tmp_path):
    store("--steps", "5")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    for _ in range(2):
        write_table(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- results: begin -->\n### step_time\n")
    assert text.endswith("<!-- results: end -->\nafter\n")
    assert "old" not in text
    assert "| step, gpuopt / bare loop | tiny | 1.01 ratio | 0.99 to 1.03 | <= 1.05 | met |" in text
    assert "`python -m benchmarks step_time --steps 5`" in text


def test_the_page_of_the_repository_shows_the_recorded_results():
    """`python -m benchmarks table` repairs it."""
    table = README.read_text("utf-8").partition("<!-- results: begin -->\n")[2]
    assert table.partition("\n<!-- results: end -->")[0] == render_table(RESULTS)
