"""The live view in a terminal, and plain lines where there is none."""

import sys
from collections import deque
from collections.abc import Callable, Sequence

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gpuopt.telemetry.figures import (
    Figure,
    device_figures,
    device_title,
    host_figures,
    shown_devices,
    sparkline,
    time_text,
    training_figures,
)
from gpuopt.telemetry.sample import Sample
from gpuopt.telemetry.subscription import Subscription

__all__ = ["dashboard", "plain_lines", "show_lines", "show_live"]

_HISTORY = 240
_CARD_WIDTH, _MOST_CARD_WIDTH = 52, 76
_WIDTH_WITH_NAMES, _WIDTH_OF_ALL = 150, 90  # of the compact table
_LABEL_WIDTH, _MOST_LABEL_WIDTH = 12, 24
_TEXT_WIDTH = 18
_BORDER = 4
_WAIT_S = 0.2  # a window that was resized is drawn anew after that
_FIRST_FIGURES, _FEWEST_FIGURES = 5, 2  # its columns
_Figures = Callable[[Sample], list[Figure]]


def show_live(subscription: Subscription, console: Console, is_over: Callable[[], bool]) -> None:
    """Draw every sample.

    Args:
        subscription: The samples; it returns when there are no more.
        console: A terminal.
        is_over: Asked several times a second; it returns when this is true.
    """
    history: deque[Sample] = deque(maxlen=_HISTORY)
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while not is_over():
            sample = subscription.get(_WAIT_S)
            if sample is not None:
                history.append(sample)
            elif subscription.is_ended:
                return
            if history:
                live.update(dashboard(list(history), *console.size), refresh=True)


def show_lines(subscription: Subscription, is_over: Callable[[], bool]) -> None:
    """Print every sample as plain lines; returns as `show_live`."""
    while not is_over():
        sample = subscription.get(_WAIT_S)
        if sample is not None:
            sys.stdout.write("\n".join([*plain_lines(sample), ""]))
            sys.stdout.flush()
        elif subscription.is_ended:
            return


def dashboard(samples: Sequence[Sample], width: int, height: int) -> RenderableType:
    """Draw the newest sample with the history of the others.

    Args:
        samples: At least one, oldest first.
        width: Characters of the terminal.
        height: Lines of the terminal; where cards do not fit, each device is a line of a table.
    """
    newest = samples[-1]
    per_row = max(1, width // _CARD_WIDTH)
    card_width = min((width - per_row + 1) // per_row, _MOST_CARD_WIDTH)
    cards = [_device_card(samples, position, card_width) for position in _positions(newest)]
    rest = [_card("host", _drawn(samples, _of_host), card_width)]
    if newest.training:
        rest.append(_card("run", _drawn(samples, training_figures), card_width))
    title = Text(f"gpuopt monitor  {time_text(newest)}", style="bold")
    lines = 2 + len(cards) * 9 // per_row + max(4, len(newest.training) + 2)
    if len(cards) > 1 and lines > height:
        return Group(title, _table(newest, width), Columns(rest))
    return Group(title, Columns([*cards, *rest]))


def plain_lines(sample: Sample) -> list[str]:
    """Word a sample in one line for each device, one for the machine, and one for the run."""
    start = time_text(sample)
    lines = [
        f"{start} {device_title(reading, sample)}: {_words(device_figures(reading, sample))}"
        for reading in shown_devices(sample)
    ]
    lines.append(f"{start} host: {_words(host_figures(sample.host))}")
    if sample.training:
        lines.append(f"{start} run: {_words(training_figures(sample))}")
    return lines


def _words(figures: Sequence[Figure]) -> str:
    return ", ".join(f"{figure.label} {figure.text}" for figure in figures)


def _positions(sample: Sample) -> range:
    return range(len(shown_devices(sample)))


def _device_card(samples: Sequence[Sample], position: int, width: int) -> Panel:
    def figures(sample: Sample) -> list[Figure]:
        devices = shown_devices(sample)
        return device_figures(devices[position], sample) if position < len(devices) else []

    newest = samples[-1]
    title = device_title(shown_devices(newest)[position], newest)
    return _card(title, _drawn(samples, figures), width)


def _of_host(sample: Sample) -> list[Figure]:
    return host_figures(sample.host)


def _drawn(samples: Sequence[Sample], figures: _Figures) -> list[tuple[Figure, list[float | None]]]:
    """Give each newest figure its history, matched by label."""
    earlier = [{figure.label: figure.value for figure in figures(sample)} for sample in samples]
    return [
        (figure, [values.get(figure.label) for values in earlier])
        for figure in figures(samples[-1])
    ]


def _card(title: str, drawn: Sequence[tuple[Figure, list[float | None]]], width: int) -> Panel:
    labels = max([_LABEL_WIDTH, *(len(figure.label) for figure, _ in drawn)])
    labels = min(labels, _MOST_LABEL_WIDTH)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=labels, no_wrap=True, style="dim")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    line_width = width - _BORDER - labels - _TEXT_WIDTH - 2
    for figure, values in drawn:
        text = Text(figure.text)
        if figure.is_drawn and any(value is not None for value in values):
            text = Text(figure.text.ljust(_TEXT_WIDTH + 1))
            text.append(sparkline(values, line_width, figure.ceiling), style="cyan")
        grid.add_row(Text(figure.label), text)
    return Panel(grid, title=Text(title), title_align="left", width=width)


def _table(sample: Sample, width: int) -> Table:
    """Draw each device as one line."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("", no_wrap=True, min_width=len("GPU 0"))
    for figure in _columns(sample, 0, width):
        table.add_column(figure.label, no_wrap=True)
    for position in _positions(sample):
        reading = shown_devices(sample)[position]
        title = (
            device_title(reading, sample) if width >= _WIDTH_WITH_NAMES else f"GPU {reading.index}"
        )
        table.add_row(Text(title), *(Text(f.text) for f in _columns(sample, position, width)))
    return table


def _columns(sample: Sample, position: int, width: int) -> list[Figure]:
    figures = device_figures(shown_devices(sample)[position], sample)
    if width < _WIDTH_OF_ALL:
        return figures[:_FEWEST_FIGURES]
    return [*figures[:_FIRST_FIGURES], figures[-1]]
