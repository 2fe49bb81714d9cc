"""How the answer of `gpuopt find_batch_size` looks in a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.finding.answer import CardAnswer, FindAnswer, SizedProbe
from gpuopt.report import PlanRow, plan_table
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table

__all__ = ["find_table"]

_PURPOSES = {"train": "training", "predict": "prediction", "tta": "test-time augmentation"}


def find_table(answer: FindAnswer) -> RenderableType:
    """Lay out an answer: the probes of each card, what was found, and why."""
    title = f"Batch size: {answer.model_name} at {answer.image_size} px, for "
    parts: list[RenderableType] = [Text(title + _PURPOSES[answer.purpose], style="bold")]
    for card in answer.cards:
        if card.probes:
            parts.append(_probes_table(card))
        parts.append(plan_table(_rows(answer, card), _name(card)))
    parts.append(Text(plain_text(str(answer.choice))))
    parts += [Text(plain_text(note)) for note in answer.notes]
    return Group(*parts)


def _name(card: CardAnswer) -> str:
    return card.card if card.device_index is None else f"device {card.device_index}: {card.card}"


def _probes_table(card: CardAnswer) -> Table:
    table = new_table("Probes" if card.evidence == "measured" else "What batches take, predicted")
    for heading in ("batch", "GiB", "budget", "ms a step", "samples/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for probe in card.probes:
        speed = probe.samples_per_second
        table.add_row(
            str(probe.batch_size),
            "out of memory" if probe.allocated_bytes is None else _gib(probe.allocated_bytes),
            _share(probe.allocated_bytes, card.budget_bytes),
            "" if probe.step_ms is None else f"{probe.step_ms:.1f}",
            "" if speed is None else f"{speed:.0f}",
            _verdict(probe),
        )
    return table


def _verdict(probe: SizedProbe) -> Text:
    if probe.fits:
        return Text("fits", style="green")
    why = ": allocator thrashes" if probe.thrashed else ""
    return Text(f"does not fit{why}", style="red")


def _rows(answer: FindAnswer, card: CardAnswer) -> Sequence[PlanRow]:
    rows = [PlanRow("evidence", card.reason, card.evidence), PlanRow("precision", card.precision)]
    if card.free_bytes is not None and card.budget_bytes is not None:
        context = "" if card.context_bytes is None else f" of {_gib(card.context_bytes)}"
        budget = (
            f"{_gib(card.budget_bytes)} of {_gib(card.free_bytes)} GiB beside the CUDA context"
            f"{context}, headroom {card.headroom_ratio or 0:.0%}"
        )
        rows.append(PlanRow("budget", budget))
    if card.largest is not None:
        rows.append(PlanRow("max", str(card.largest), card.evidence))
    if card.knee is not None:
        rows.append(PlanRow("knee", f"{card.knee}: full throughput from there", card.evidence))
    rows.append(PlanRow("chosen", str(card.chosen), card.evidence))
    if card.levels:
        levels = ", ".join(f"{level} {size}" for level, size in card.levels.items())
        asked = f"; here {answer.checkpointing}"
        rows.append(PlanRow("checkpointing", f"max by level: {levels}{asked}", "predicted"))
    return rows


def _share(allocated_bytes: int | None, budget_bytes: int | None) -> str:
    if allocated_bytes is None or not budget_bytes:
        return ""
    return f"{allocated_bytes / budget_bytes:.1%}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f}"
