import pytest
from rich.console import Group
from rich.text import Text

from gpuopt.report import PlanRow, plan_table
from gpuopt.report.markdown import to_markdown
from gpuopt.report.tables import new_table


def test_a_table_keeps_title_headings_sides_and_caption():
    table = new_table("What fits")
    table.caption = Text("GiB", style="dim")
    table.add_column("gpu=", style="bold")
    table.add_column(Text("largest\nplain"), justify="right")
    table.add_row(Text("rtx3060"), "24")
    assert to_markdown(table).splitlines() == [
        "**What fits**",
        "",
        "| gpu= | largest plain |",
        "| --- | ---: |",
        "| rtx3060 | 24 |",
        "",
        "GiB",
    ]


def test_letters_that_mean_something_are_escaped():
    table = new_table("A | B")
    table.add_column("")
    table.add_row(Text("a|b *c* `d` <e> image_size"))
    lines = to_markdown(table).splitlines()
    assert lines[0] == r"**A \| B**"
    assert lines[-1] == r"| a\|b \*c\* \`d\` \<e> image_size |"


def test_groups_words_and_reports_are_taken_apart():
    class Report:
        def __rich__(self):
            return Group(plan_table([PlanRow("a", "b", "table")], "Plan"), Text("end"), "")

    text = to_markdown(Report())
    assert text.startswith("**Plan**\n")
    assert "| a | b | table |" in text
    assert text.endswith("\n\nend\n")
    with pytest.raises(TypeError, match="int has no Markdown"):
        to_markdown(3)
