"""The live view in a terminal, and plain lines where there is none."""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.cells import cell_len
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

_CARD_WIDTH, _MOST_CARD_WIDTH = 52, 76
_WIDTH_WITH_NAMES = 150  # of the compact table
_LABEL_WIDTH, _MOST_LABEL_WIDTH = 12, 24
_TEXT_WIDTH = 18
_BORDER, _GAP = 4, 1
_HISTORY = _MOST_CARD_WIDTH - _BORDER - _LABEL_WIDTH - _TEXT_WIDTH - 2 * _GAP  # of a line of blocks
_WAIT_S = 0.2  # a window that was resized is drawn anew after that
# Columns of the compact table, as many of them as there is room for.
_COLUMNS = ("utilisation", "memory", "power", "temperature", "SM clock", "throttled", "processes")
_SHORTENED = ("throttled", "processes")
_Figures = Callable[[Sample], list[Figure]]


def show_live(subscription: Subscription, console: Console, is_over: Callable[[], bool]) -> None:
    """Draw every sample.

    Args:
        subscription: The samples; it returns when there are no more.
        console: A terminal.
        is_over: Asked several times a second; it returns when this is true.
    """
    history: deque[Sample] = deque(maxlen=_HISTORY)
    drawn_size = None
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while not is_over():
            sample = subscription.get(_WAIT_S)
            if sample is not None:
                history.append(sample)
            elif subscription.is_ended:
                return
            elif console.size == drawn_size:
                continue
            if history:
                drawn_size = console.size
                live.update(dashboard(list(history), *drawn_size), refresh=True)


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
    rows = len(device_figures(shown_devices(newest)[0], newest)) + 2
    lines = 2 + -(-len(cards) // per_row) * rows + max(4, len(newest.training) + 2)
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
    """Give each newest figure its history, matched by label, and a ceiling that was known once."""
    earlier = [{figure.label: figure for figure in figures(sample)} for sample in samples]
    drawn: list[tuple[Figure, list[float | None]]] = []
    for label, newest in earlier[-1].items():
        own = [known.get(label) for known in earlier]
        ceilings = [figure.ceiling for figure in own if figure and figure.ceiling is not None]
        figure = replace(newest, ceiling=ceilings[-1] if ceilings else None)
        drawn.append((figure, [None if known is None else known.value for known in own]))
    return drawn


def _card(title: str, drawn: Sequence[tuple[Figure, list[float | None]]], width: int) -> Panel:
    labels = max([_LABEL_WIDTH, *(len(figure.label) for figure, _ in drawn)])
    labels = min(labels, _MOST_LABEL_WIDTH)
    grid = Table.grid(padding=(0, _GAP))
    grid.add_column(width=labels, no_wrap=True, style="dim")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    room = width - _BORDER - labels - _GAP
    for figure, values in drawn:
        text = Text(figure.text)
        if figure.is_drawn and any(value is not None for value in values):
            text = Text(figure.text.ljust(_TEXT_WIDTH + _GAP))
            line = sparkline(values, room - _TEXT_WIDTH - _GAP, figure.ceiling)
            text.append(line, style="cyan")
        text.truncate(max(1, room), overflow="ellipsis")  # else the labels would be cut as well
        grid.add_row(Text(figure.label), text)
    return Panel(grid, title=Text(title), title_align="left", width=width)


def _table(sample: Sample, width: int) -> Table:
    """Draw each device as one line, with as many figures as there is room for."""
    devices = shown_devices(sample)
    has_names = width >= _WIDTH_WITH_NAMES
    titles = [device_title(r, sample) if has_names else f"GPU {r.index}" for r in devices]
    texts = [{f.label: f.text for f in device_figures(reading, sample)} for reading in devices]
    table = Table(box=None, padding=(0, _GAP))
    table.add_column("", no_wrap=True)
    columns = [[Text(title) for title in titles]]
    room = width - max(map(cell_len, titles)) - 2 * _GAP
    for label in _COLUMNS:
        cells = [Text(known[label]) for known in texts]
        room -= 2 * _GAP
        if room < cell_len(label):
            break
        for cell in cells if label in _SHORTENED else ():
            cell.truncate(room, overflow="ellipsis")
        widest = max(cell_len(label), *(cell.cell_len for cell in cells))
        if widest > room:
            break
        table.add_column(label, no_wrap=True)
        columns.append(cells)
        room -= widest
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table
