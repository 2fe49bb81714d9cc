"""The terminal shows every sample, fits, and leaves the terminal as it was."""

import io
import os
import pty
import threading

import pytest
from rich.console import Console
from rich.text import Text

from gpuopt.telemetry import HostReading, Sample, Subscription, terminal
from gpuopt.telemetry.terminal import dashboard, plain_lines, show_lines, show_live
from tests.telemetry.samples import FULL, card, sample


def never():
    return False


def draw(samples, width=100, height=40):
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    console.print(dashboard(samples, width, height))
    return console.file.getvalue().splitlines()


def played(*samples):
    subscription = Subscription(100)
    for taken in samples:
        subscription.put(taken)
    subscription.end()
    return subscription


@pytest.mark.parametrize("width", [40, 60, 80, 120, 240])
@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_it_fits_every_width(width, count):
    cards = [card(index, **FULL) for index in range(count)]
    lines = draw([Sample(5.0, tuple(cards), HostReading(0.5)) for _ in range(300)], width, 30)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(f"GPU {index}" in text for index in range(count))
    assert ("no GPU" in text) == (count == 0)


def test_the_newest_values_and_the_history_of_the_others():
    values = [0.0, 0.5, 1.0]
    lines = draw([sample(0, card(utilisation_ratio=value)) for value in values])
    (line,) = [line for line in lines if "utilisation" in line]
    assert "100 %" in line
    assert "▁▅█" in line


def test_devices_that_do_not_fit_as_cards_become_a_table():
    cards = [card(index, **FULL) for index in range(8)]
    lines = draw([sample(0, *cards)], 100, 24)
    assert len(lines) <= 24
    assert sum("60.0 / 80.0 GiB" in line for line in lines) == 8


@pytest.mark.parametrize("width", [30, 80, 160])
def test_the_table_has_as_many_columns_as_fit(width):
    lines = draw([sample(0, *(card(index, **FULL) for index in range(8)))], width, 24)
    text = "\n".join(lines)
    assert all(("power" in text, "SM clock" in text)) == (width >= 80)
    assert ("power_cap 12 s (now)" in text, "python" in text) == (width == 160, width == 160)
    assert "utilisation" in text


@pytest.mark.parametrize("width", [40, 52, 160])
def test_a_long_figure_cuts_no_label(width):
    held = {0: {"power_cap": 30.0, "software_thermal": 20.0, "hardware_thermal": 10.0}}
    cards = [card(index, **FULL) for index in range(3)]
    text = "\n".join(draw([sample(0, *cards, throttled_s=held)], width, 80))
    assert text.count("utilisation ") == text.count("temperature ") == 3


def test_the_scale_of_a_device_that_is_lost_stays():
    cards = [card(0, **FULL)] * 2
    (line,) = [
        line
        for line in draw([*(sample(0, known) for known in cards), sample(0, card(0))])
        if "memory" in line and "GiB" not in line
    ]
    assert "▇▇ " in line  # 60 of 80


def test_a_window_is_drawn_for_a_sample_or_a_new_size_alone(monkeypatch):
    drawn, asked = [], []
    monkeypatch.setattr(terminal, "_WAIT_S", 0.001)
    monkeypatch.setattr(terminal, "dashboard", lambda s, *size: drawn.append(size) or Text(""))
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30)
    subscription = Subscription(10)
    subscription.put(sample())

    def is_over():
        asked.append(None)
        if len(asked) == 20:
            console.size = (60, 20)
        return len(asked) > 40

    show_live(subscription, console, is_over)
    assert drawn == [(80, 30), (60, 20)]


def test_the_metrics_of_a_run_have_a_card():
    lines = draw([sample(0, training={"train/loss_step": 0.25, "lr/0": 1e-3})])
    assert any("train/loss_step" in line and "0.25" in line for line in lines)
    assert not any("─ run" in line for line in draw([sample(0, training={})]))


def test_plain_lines_for_a_pipe(capsys):
    show_lines(played(sample(0), sample(1)), never)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[:3] == plain_lines(sample(0))
    assert "GPU 0  NVIDIA H100 80GB HBM3: utilisation 75 %, memory 60.0 / 80.0 GiB" in lines[0]
    assert lines[1].endswith("host: CPU 25 %, memory 6.0 / 24.0 GiB")
    assert lines[2].endswith("run: train/loss_step 0.5")


def test_it_ends_when_told_though_samples_could_come(capsys):
    asked = iter([False, True])
    subscription = Subscription(10)
    subscription.put(sample())
    show_lines(subscription, lambda: next(asked))
    assert len(capsys.readouterr().out.splitlines()) == 3
    show_live(Subscription(10), Console(file=io.StringIO(), force_terminal=True), lambda: True)


def test_a_real_terminal_gets_every_sample_and_its_cursor_back():
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read():
        try:
            while content := os.read(ours, 4096):
                seen.extend(content)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as stream:
        console = Console(file=stream, force_terminal=True, width=80, height=30, highlight=False)
        cards = [card(utilisation_ratio=number / 100) for number in (11, 22, 33)]
        show_live(played(*(sample(0, taken) for taken in cards)), console, never)
    reader.join(20)
    os.close(ours)
    text = seen.decode()
    assert all(f"{number} %" in text for number in (11, 22, 33))
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
