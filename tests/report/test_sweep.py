import csv
import io

import pytest
from rich.console import Console

from gpuopt.report import SweepRow, png_bytes, sweep_figure, sweep_table, write_sweep_csv

DONE = SweepRow(
    0, {"micro_batch_size": "8", "seed": "1"}, 64, 8, 1234.5, None, 12.3, 0.912, 0.934, "done"
)
REFUSED = SweepRow(
    1,
    {"micro_batch_size": "-4", "seed": "1"},
    64,
    "-4",
    state="refused",
    reason="micro_batch_size=-4 is out of range, \x1b[31m[bold]1 to 10",
)
WAITING = SweepRow(2, {"micro_batch_size": "16", "seed": "1"}, 64, 16)
ROWS = [DONE, REFUSED, WAITING]


def table_text(rows):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(sweep_table(rows, "Sweep"))
    return console.export_text()


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_has_a_line_per_job_and_leaves_the_unknown_empty(tmp_path):
    write_sweep_csv(tmp_path / "sweep.csv", ROWS)
    rows = read_csv(tmp_path / "sweep.csv")
    assert [row["state"] for row in rows] == ["done", "refused", "waiting"]
    assert rows[0]["samples_per_second"] == "1234.5"
    assert rows[0]["f1_tta"] == "0.934"
    assert rows[0]["peak_memory_gib"] == ""
    assert rows[1]["samples_per_second"] == ""
    assert rows[1]["micro_batch_size"] == "-4"
    assert rows[1]["reason"] == REFUSED.reason
    assert rows[2]["seed"] == "1"


def test_csv_is_replaced_in_one_piece(tmp_path):
    path = tmp_path / "sweep.csv"
    write_sweep_csv(path, ROWS[:1])
    first = path.read_text()
    with pytest.raises(KeyError):
        write_sweep_csv(path, [DONE, SweepRow(1)])
    assert path.read_text() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep.csv"]


def test_table_shows_states_with_reasons_and_sends_no_escape_codes():
    text = table_text(ROWS)
    assert "1234.5" in text
    assert "0.912" in text
    assert "8, 64" in text
    assert "refused: micro_batch_size=-4 is out of range, [31m[bold]1 to 10" in text
    assert "\x1b" not in text
    assert "waiting" in text


def test_table_has_memory_and_tta_only_when_measured():
    assert "peak GiB" not in table_text(ROWS)
    assert "F1, TTA" in table_text(ROWS)
    assert "F1, TTA" not in table_text(ROWS[1:])
    with_memory = SweepRow(0, {}, peak_memory_gib=3.25, state="done")
    assert "3.25" in table_text([with_memory, SweepRow(1, {})])


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_figure_takes_any_number_of_jobs(count):
    rows = [ROWS[number % 3] for number in range(count)]
    figure = sweep_figure(rows, "Sweep")
    assert png_bytes(figure)[:4] == b"\x89PNG"


def test_figure_marks_what_was_measured_and_names_every_job():
    figure = sweep_figure(ROWS, "Sweep")
    points = [len(c.get_offsets()) for axes in figure.axes for c in axes.collections]
    assert points == [1, 1, 1]  # throughput, F1, F1 with TTA: nothing for the other two jobs
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == [
        "micro_batch_size=8 seed=1",
        "micro_batch_size=-4 seed=1 refused",
        "micro_batch_size=16 seed=1 waiting",
    ]
