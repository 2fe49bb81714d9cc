from rich.console import Console

from gpuopt.profiling import profile_of, trace_of
from gpuopt.profiling.table import profile_table
from gpuopt.profiling.words import count_text, figure, percent
from tests.profiling.events import on_host, operator


def text_of(profile):
    console = Console(width=100, record=True, file=None, quiet=False, highlight=False)
    with console.capture() as captured:
        console.print(profile_table(profile))
    return captured.get()


def test_the_sentence_the_parts_and_the_operators_are_shown(device_trace):
    text = text_of(profile_of(device_trace, plain_step_ms=0.5))
    assert text.startswith("A step takes 1 ms: aten::conv takes 0.645 ms of it (64%).")
    for word in ("The step, on the device", "launch gaps", "aten::copy_", "Without the profiler"):
        assert word in text


def test_names_cannot_reach_the_terminal():
    events = [*on_host(), operator("\x1b[31m[red]", 901, 949)]
    assert "\x1b" not in text_of(profile_of(trace_of(events)))


def test_figures_are_short():
    assert [figure(value) for value in (1234.5, 999.4, 38.42, 0.08152, 0.0)] == [
        "1,234",
        "999",
        "38.4",
        "0.0815",
        "0",
    ]
    assert (percent(0.333), count_text(3.0), count_text(0.25), count_text(1500.0)) == (
        "33.3",
        "3",
        "0.2",
        "1,500",
    )
