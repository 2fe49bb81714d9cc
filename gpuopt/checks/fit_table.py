"""How `report=fit` looks in a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpuopt.memory import MemoryEstimate
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table

if TYPE_CHECKING:
    from gpuopt.checks.fit import CardFit, SeedFit

__all__ = ["cards_table", "fixed_lines", "seed_table"]

_STYLES = {"fits": "green", "fits without headroom": "yellow", "does not fit": "red"}


def cards_table(title: str, cards: Sequence["CardFit"], ways: Sequence[str]) -> Table:
    """Lay out what fits each card.

    Args:
        title: Above the table.
        cards: One row each.
        ways: The columns of largest micro-batches.
    """
    table = new_table(title)
    table.add_column("gpu=", no_wrap=True, style="bold")
    table.add_column("card", no_wrap=True)
    for heading in ("memory", "to use"):
        table.add_column(f"{heading} (GiB)", justify="right")
    table.add_column("precision")
    for way in ways:
        table.add_column(way, justify="right")
    for card in cards:
        gpu = card.gpu
        table.add_row(
            Text(plain_text(card.preset)),
            Text(plain_text(gpu.name)),
            _gib((gpu.memory_mib or 0) * 2**20),
            _gib(gpu.budget_bytes()),
            card.precision or "impossible",
            *(_count(card.largest[way]) for way in ways),
        )
    return table


def fixed_lines(estimates: Mapping[tuple[str, str], MemoryEstimate]) -> Text:
    """Word what every batch size holds, and what a sample adds, of each way and precision."""
    lines = []
    for (way, precision), estimate in estimates.items():
        fixed = estimate.fixed
        parts = {
            "weights": fixed.parameters + fixed.buffers,
            "gradients": fixed.gradients,
            "optimizer": fixed.optimizer_state,
            "average": fixed.moving_average,
            "half copies": fixed.half_precision_weights,
            "cuBLAS": fixed.workspace,
            "context": fixed.context,
        }
        words = " + ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size)
        lines.append(
            f"{way}, {precision}: {words} GiB, "
            f"+ {estimate.bytes_per_sample / 2**20:.1f} MiB a sample"
        )
    return Text("\n".join(lines), style="dim")


def seed_table(seeds: Sequence["SeedFit"]) -> Table:
    """Lay out what becomes of the guide's batches."""
    table = new_table("The batches of the optimisation guide, without checkpointing, predicted")
    table.add_column("gpu=", no_wrap=True, style="bold")
    for heading in ("batch", "size (px)", "needs (GiB)", "memory (GiB)", "largest"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", no_wrap=True)
    for seed in seeds:
        row = seed.gpu.seed
        table.add_row(
            Text(plain_text(seed.preset)),
            str(row.batch_size) if row else "",
            str(row.image_size) if row else "",
            "" if seed.needed_bytes is None else _gib(seed.needed_bytes),
            _gib((seed.gpu.memory_mib or 0) * 2**20),
            _count(seed.largest),
            Text(seed.verdict, style=_STYLES.get(seed.verdict, "")),
        )
    return table


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f}"
