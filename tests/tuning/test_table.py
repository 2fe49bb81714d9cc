"""What a person reads."""

from dataclasses import replace

from rich.console import Console

from gpuopt.choice import Choice
from gpuopt.measure.pairs import paired_ratio
from gpuopt.tuning.answer import BeforeAfter, TuneAnswer
from gpuopt.tuning.compile_answer import CompileAnswer, CompiledMode
from gpuopt.tuning.goal import Figures
from gpuopt.tuning.loader_limits import WorkerLimit
from gpuopt.tuning.loader_search import LoaderReading, search_loader
from gpuopt.tuning.table import tune_table

GIB = 2**30


def compared(after_speed=200.0, after_ms=5.0, after_bytes=GIB, spread=0.01):
    seconds = [1 / 100 * (1 + spread * (i % 2)) for i in range(6)]
    return BeforeAfter(
        before=Figures(100.0, 10.0, 2 * GIB),
        after=Figures(after_speed, after_ms, after_bytes),
        speed=paired_ratio(seconds, [s * 100 / after_speed for s in seconds]),
        samples_per_step=32,
        memory="the device",
    )


def answer(**values):
    choices = [
        Choice("num_workers", 6, "measured", "[why]"),
        Choice("micro_batch_size", 8, "given", "asked for"),
    ]
    return TuneAnswer("all", "throughput", "Card", choices, **values)


def shown(found):
    console = Console(width=100, highlight=False)
    with console.capture() as capture:
        console.print(tune_table(found))
    return capture.get()


def test_all_is_shown_within_100_columns():
    loader = search_loader(
        lambda setting: Figures(400.0, 12.5),
        LoaderReading(100, 1.0, 1.2, 1000),
        limit_for=lambda _: WorkerLimit(4, "4 processors may be used"),
        demand=1000,
    )
    mode = CompiledMode("default", 100.0, 80.0, 15.0, 30.0, 2000)
    compiled = CompileAnswer("default", "", [mode], 10_000, 500, 2)
    text = shown(
        answer(loader=loader, compiled=compiled, comparison=compared(), notes=[loader.shortfall])
    )
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        "the training without loading: 1000 samples/s",
        "1,000 steps, 4 epochs",
        "CPU bound: 600 samples/s missing",
        "[why]",
        "speed after / before: 2.000",
        "memory of the device",
    ):
        assert words in " ".join(text.split())
    (before,) = (line.split() for line in text.splitlines() if line.split()[:1] == ["before"])
    assert before[1:] == ["320.0", "100", "2.00"]


def test_what_cannot_be_measured_is_one_line():
    line = "not measured: loader: RTX 3060 is not in this machine"
    assert line in shown(answer(unmeasured=line)).splitlines()[-1]


def test_only_what_was_found_is_set():
    assert answer().settings == {"num_workers": 6}
    assert answer(comparison=compared()).settings == {"num_workers": 6}


def test_nothing_is_set_that_is_worse():
    slow = compared(after_speed=90.0)
    assert answer(comparison=compared(after_speed=90.0)).settings == {}
    assert compared(after_speed=99.0).is_worse("throughput")  # surely
    noisy = [1, 1.3, 0.8, 1.2, 0.7, 1.1]
    likely, unclear = (
        replace(slow, speed=paired_ratio([1.0] * 6, [factor * s for s in noisy]))
        for factor in (1.05, 1.0)
    )
    assert likely.speed.high > 1
    assert likely.is_worse("throughput")
    assert "not surely better" in likely.kept_because("throughput")
    assert "as they were typed are better" in slow.kept_because("throughput")
    assert not unclear.is_worse("throughput")
    assert not slow.is_worse("latency")
    assert not slow.is_worse("memory")
    assert compared(after_ms=11.0).is_worse("latency")
    assert compared(after_bytes=3 * GIB).is_worse("memory")
    assert answer(comparison=slow).as_dict()["comparison"]["after"]["step_ms"] > 320
