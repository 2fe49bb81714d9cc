import io

import pytest
from rich.console import Console

from gpuopt.measure import Interval
from gpuopt.report import FoldRow, PlanRow, ResultRow, folds_table, plan_table, results_table


def printed(table, width=120, **options):
    stream = io.StringIO()
    Console(file=stream, width=width, **options).print(table)
    return stream.getvalue()


def test_a_plan_shows_values_with_their_evidence():
    output = printed(plan_table([PlanRow("time", "174 s", "predicted"), PlanRow("device", "cpu")]))
    line = next(line for line in output.splitlines() if "174 s" in line)
    assert line.split() == ["time", "174", "s", "predicted"]
    assert "Plan" in output


def test_hostile_names_are_neither_markup_nor_escape_codes():
    names = ["[bold]x[/]", "[/red]", "a\x1b]0;title\x07b", "line\nbreak"]
    table = plan_table([PlanRow(name, name, "given") for name in names], title="[/b]\x1b[2J")
    output = printed(table)
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "[bold]x[/]" in output
    assert "[/red]" in output
    assert "line break" in output


GAIN = ResultRow(
    "macro-F1",
    Interval(0.913, 0.903, 0.922),
    Interval(0.928, 0.918, 0.936),
    Interval(0.015, 0.008, 0.022),
)


def test_results_show_both_the_intervals_and_the_paired_difference():
    output = printed(results_table([GAIN], title="documents", policy="essential"))
    assert "documents" in output
    assert "with TTA essential" in output
    assert "0.913  0.903 to 0.922" in output
    assert "0.928  0.918 to 0.936" in output
    assert "+0.015  +0.008 to +0.022" in output
    assert "95%" in output
    assert "may be 0" not in output


@pytest.mark.parametrize(
    ("difference", "colour", "doubt"),
    [
        (Interval(0.015, 0.008, 0.022), "32", False),
        (Interval(-0.015, -0.022, -0.008), "31", False),
        (Interval(0.004, -0.002, 0.010), None, True),
    ],
)
def test_only_a_finding_is_coloured(difference, colour, doubt):
    row = ResultRow("macro-F1", GAIN.single, GAIN.merged, difference)
    output = printed(results_table([row]), force_terminal=True, color_system="standard")
    assert ("may be 0" in output) is doubt
    for code in ("31", "32"):
        assert (f";{code}m" in output) is (code == colour)


def test_without_test_time_augmentation_there_are_no_columns_for_it():
    output = printed(results_table([ResultRow("accuracy", Interval(0.9, 0.88, 0.92))]))
    assert "TTA" not in output
    assert "difference" not in output
    assert "0.900  0.880 to 0.920" in output


def test_folds_stand_above_their_sum():
    rows = [FoldRow("0", 10, Interval(0.8, 0.7, 0.9)), FoldRow("[b]", 30, GAIN.single)]
    output = printed(folds_table(rows, title="Out of fold", caption="mean 0.850"))
    assert "0.800  0.700 to 0.900" in output
    assert output.index("0.800") < output.index("[b]") < output.index("mean 0.850")
