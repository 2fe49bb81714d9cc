"""How a benchmark of engines looks in a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.engine.race import Scope, Timing
from gpuopt.engine.record import EngineRecord
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table
from gpuopt.session.engine_benchmark import EngineAnswer

__all__ = ["engine_tables"]

_SCOPES: dict[Scope, str] = {"engine": "on the device", "end_to_end": "from host to host"}


def engine_tables(answer: EngineAnswer) -> RenderableType:
    """Lay out what engines are, how fast they are, and what was rejected."""
    title = f"Engines of {answer.model} at {answer.image_size} px on {answer.device}"
    parts: list[RenderableType] = [_engines_table(answer, title)]
    parts += [
        Text(plain_text(f"{record.engine}: {record.reason}"))
        for record in answer.records
        if not record.is_verified
    ]
    parts += [
        Text(plain_text(f"{record.engine}: {fault}"))
        for record in answer.records
        for fault in record.faults
    ]
    for scope, words in _SCOPES.items():
        parts.append(_speed_table(answer, scope, f"Speed {words}"))
    return Group(*parts)


def _engines_table(answer: EngineAnswer, title: str) -> Table:
    table = new_table(title)
    table.add_column("engine", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for heading in ("build s", "memory MiB", "same class", "KL", "logits within"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for record in answer.records:
        proof = record.verification
        kept = ", some fp32" if record.fp32_layers else ""
        table.add_row(
            record.engine,
            f"{record.precision}{kept}",
            "" if record.build_s is None else f"{record.build_s:.1f}",
            "" if record.memory_bytes is None else f"{record.memory_bytes / 2**20:.0f}",
            _figure(proof.agreement if proof else None, ".2%"),
            _figure(proof.kl if proof else None, ".1e"),
            _figure(proof.max_logit_difference if proof else None, ".1e"),
            _outcome(record),
        )
    return table


def _outcome(record: EngineRecord) -> Text:
    if record.is_verified:
        return Text("verified", style="green")
    return Text("not verified" if record.timings else "left out", style="red")


def _speed_table(answer: EngineAnswer, scope: Scope, title: str) -> Table:
    table = new_table(title)
    table.add_column("engine", no_wrap=True)
    for heading in ("batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "times as fast as eager"):
        table.add_column(heading, justify="right", no_wrap=True)
    for size in answer.batch_sizes:
        for record in answer.records:
            timing = next(
                (t for t in record.timings if (t.scope, t.batch_size) == (scope, size)), None
            )
            if timing is not None:
                table.add_row(record.engine, str(size), *_speed(timing))
    return table


def _speed(timing: Timing) -> tuple[str, ...]:
    low, high = timing.samples_per_second_low, timing.samples_per_second_high
    return (
        *(f"{ms:.2f}" for ms in (timing.p50_ms, timing.p95_ms, timing.p99_ms)),
        f"{timing.samples_per_second:.0f}  {low:.0f} to {high:.0f}",
        _speedup(timing),
    )


def _speedup(timing: Timing) -> str:
    ratio = timing.time_ratio
    if ratio is None:
        return ""
    return f"{1 / ratio.ratio:.2f}  {1 / ratio.high:.2f} to {1 / ratio.low:.2f}"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
