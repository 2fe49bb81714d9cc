"""How a diagnosis of bottlenecks looks in a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.diagnosis.bottleneck import Bottleneck, BottleneckDiagnosis
from gpuopt.measure import Interval
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table

__all__ = ["bottleneck_tables"]

_BAR = 24


def bottleneck_tables(title: str, diagnosis: BottleneckDiagnosis) -> RenderableType:
    """Lay out the verdict, what the step is made of, and what to try.

    Args:
        title: What was trained.
        diagnosis: What was found.
    """
    parts = diagnosis.measured.parts
    speed = f"{parts.step_ms.value:.1f} ms a step, {parts.samples_per_second:.0f} samples/s"
    lines: list[RenderableType] = [
        Text(plain_text(diagnosis.verdict), style="bold"),
        Text(plain_text(f"{title}: {speed}"), style="dim"),
        _parts_table(diagnosis),
    ]
    lines += [_found_text(one) for one in diagnosis.found]
    if diagnosis.disturbance is not None:
        lines.append(Text(diagnosis.disturbance, style="yellow"))
    tries = "" if not diagnosis.overrides else f": try {' '.join(diagnosis.overrides)}"
    lines.append(Text(plain_text(f"{diagnosis.remedy}{tries}"), style="dim"))
    return Group(*lines)


def _parts_table(diagnosis: BottleneckDiagnosis) -> Table:
    parts = diagnosis.measured.parts
    step_ms = parts.step_ms.value
    table = new_table("What a step is made of")
    table.add_column("part", no_wrap=True)
    for heading in ("ms", "95 % interval", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, part in parts.parts_ms().items():
        share = part.value / step_ms
        bar = "█" * round(_BAR * min(1.0, share))
        table.add_row(name, f"{part.value:.2f}", _range(part), f"{share:.1%}", bar)
    total_ms = parts.closure_ratio() * step_ms
    table.add_row("sum of parts / step", f"{total_ms:.2f}", "", f"{parts.closure_ratio():.1%}", "")
    return table


def _found_text(one: Bottleneck) -> Text:
    gain = f"{one.gain.value:+.0%} samples/s ({one.gain.low:+.0%} to {one.gain.high:+.0%})"
    text = Text.assemble(
        (f"{one.kind}: {gain}", "bold yellow"), f"; {plain_text(one.evidence)}; {one.remedy}"
    )
    if one.overrides:
        text.append(f"; try {' '.join(one.overrides)}", style="bold")
    return text


def _range(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"
