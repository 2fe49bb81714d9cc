"""How the answer of `gpuopt tune` looks in a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table
from gpuopt.tuning.answer import BeforeAfter, TuneAnswer
from gpuopt.tuning.compile_answer import CompileAnswer
from gpuopt.tuning.goal import Figures
from gpuopt.tuning.loader_search import LoaderResult

__all__ = ["tune_table"]

_GIB = 2**30


def tune_table(answer: TuneAnswer) -> RenderableType:
    """Lay out an answer: the probes, the modes, before and after, and every choice."""
    title = f"Tuning {answer.target} for {answer.goal} on {answer.device}"
    parts: list[RenderableType] = [Text(plain_text(title), style="bold")]
    if answer.loader is not None:
        parts.append(_loader_table(answer.loader))
        if (demand := answer.loader.demand) is not None:
            parts.append(Text(f"the training without loading: {demand:.0f} samples/s", style="dim"))
    if answer.compiled is not None and answer.compiled.modes:
        parts.append(_compile_table(answer.compiled))
    if answer.comparison is not None:
        parts.append(_comparison_table(answer.comparison))
        parts.append(Text(plain_text(_speed_text(answer.comparison)), style="dim"))
    parts += [Text(plain_text(str(choice))) for choice in answer.choices]
    parts += [Text(plain_text(note), style="yellow") for note in answer.notes]
    if answer.unmeasured:
        parts.append(Text(plain_text(answer.unmeasured), style="yellow"))
    return Group(*parts)


def _loader_table(found: LoaderResult) -> Table:
    table = new_table("Loader, beside the training")
    for heading in ("workers", "prefetch", "pinned", "samples/s", "95 % of batches, ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for setting, figures in found.probes.items():
        table.add_row(
            str(setting.num_workers),
            str(setting.prefetch_factor),
            "yes" if setting.pin_memory else "no",
            f"{figures.samples_per_second:.0f}",
            f"{figures.batch_ms:.1f}",
            style="bold green" if setting == found.setting else "",
        )
    return table


def _compile_table(found: CompileAnswer) -> Table:
    table = new_table("torch.compile, on the real step")
    for heading in ("mode", "eager ms", "compiled ms", "to compile, s", "pays back after"):
        table.add_column(heading, justify="right", overflow="fold")
    for mode in found.modes:
        table.add_row(
            Text(mode.mode),
            "" if mode.eager_ms is None else f"{mode.eager_ms:.1f}",
            "" if mode.compiled_ms is None else f"{mode.compiled_ms:.1f}",
            f"{mode.compile_s:.1f}",
            Text(plain_text(found.payback_text(mode))),
            style="bold green" if mode.mode == found.mode else "",
        )
    return table


def _comparison_table(found: BeforeAfter) -> Table:
    table = new_table("Before and after, in turns")
    for heading in ("", "step ms", "samples/s", "peak memory, GiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, figures in (("before", found.before), ("after", found.after)):
        table.add_row(
            name,
            f"{found.step_ms(figures):.1f}",
            f"{figures.samples_per_second:.0f}",
            _memory(figures),
        )
    return table


def _speed_text(found: BeforeAfter) -> str:
    speed = found.speed
    return (
        f"speed after / before: {speed.ratio:.3f} ({speed.low:.3f} to {speed.high:.3f}), "
        f"{speed.pairs} pairs; memory of {found.memory}"
    )


def _memory(figures: Figures) -> str:
    return "n/a" if figures.memory_bytes is None else f"{figures.memory_bytes / _GIB:.2f}"
