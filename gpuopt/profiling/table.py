"""How a profile looks in a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.profiling.profile import Profile
from gpuopt.profiling.words import count_text, figure, percent
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table

__all__ = ["profile_table"]

_MOST_OPERATORS = 8


def profile_table(profile: Profile) -> RenderableType:
    """Lay out what took the time: the sentence, the parts of the step, the first operators."""
    parts: list[RenderableType] = [Text(plain_text(profile.headline()), style="bold")]
    parts += [_shares(profile), _operators(profile)]
    parts += [Text(plain_text(sentence)) for sentence in profile.advice()]
    return Group(*parts)


def _shares(profile: Profile) -> Table:
    table = new_table("The step, on the " + ("device" if profile.has_device else "host"))
    table.add_column("", no_wrap=True)
    for heading in ("ms", "%"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it is")
    for share in profile.shares:
        figures = figure(share.ms), percent(share.ratio)
        table.add_row(Text(share.name), *map(Text, figures), Text(share.meaning))
    return table


def _operators(profile: Profile) -> Table:
    table = new_table("Operators")
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for heading in ("own ms", "%", "calls"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in profile.operators[:_MOST_OPERATORS]:
        own = profile.own_ms(row)
        figures = figure(own), percent(own / profile.step_ms), count_text(row.calls / profile.steps)
        table.add_row(Text(plain_text(row.name)), *map(Text, figures))
    return table
