import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gpuopt.answers import WIDTH, print_ending, print_json, table_console


def test_in_a_pipe_a_table_is_as_wide_as_is_read_easily():
    assert table_console().width == WIDTH


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("400", WIDTH)])
def test_in_a_terminal_it_is_never_wider_than_that(monkeypatch, columns, width):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    assert table_console().width == width


def test_paths_and_commands_stay_on_one_line_and_are_no_markup():
    console = Console(file=io.StringIO(), width=20)
    command = "gpuopt train experiment=[tuned] " + "x" * 40
    print_ending(console, [Path("a[red]") / ("y" * 40)], command)
    assert console.file.getvalue().splitlines() == [f"written: a[red]/{'y' * 40}", command]


def test_json_is_what_it_was_and_has_no_words_for_numbers(capsys):
    print_json({"schema": 1, "value": 0.5})
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "value": 0.5}
    with pytest.raises(ValueError, match="JSON"):
        print_json({"value": float("nan")})
