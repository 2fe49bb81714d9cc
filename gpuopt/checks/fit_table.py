"""How `report=fit` looks in a terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from gpuopt.checks.card_fit import CardFit, SeedFit
from gpuopt.memory import MemoryEstimate
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table

__all__ = ["cards_table", "parts_table", "seed_table"]

# Columns of the parts, and the fields of `FixedMemory` that they add up.
_PARTS = {
    "weights": ("parameters", "buffers"),
    "grad.": ("gradients",),
    "opt.": ("optimizer_state",),
    "avg.": ("moving_average",),
    "half copies": ("half_precision_weights",),
    "cuBLAS": ("workspace",),
    "context": ("context",),
}
_HEADINGS = {"checkpointed": "check-\npointed"}  # so that all fits into 80 characters
_STYLES = {"fits": "green", "checkpointed only": "yellow", "does not fit": "red"}


def cards_table(title: str, cards: Sequence[CardFit], ways: Sequence[str]) -> Table:
    """Lay out what fits each card.

    Args:
        title: Above the table.
        cards: One row each.
        ways: The columns of largest micro-batches.
    """
    table = new_table(title, is_dense=True)
    table.caption = Text(
        "GiB; usable: memory less the headroom of a prediction, 8 % or more (headroom=X sets it); "
        "checkpointed: activations are recomputed",
        style="dim",
    )
    table.caption_justify = "left"
    table.add_column("gpu=", no_wrap=True, style="bold")
    table.add_column("card")
    for heading in ("memory", "usable"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("in", no_wrap=True)
    for way in ways:
        table.add_column(_HEADINGS.get(way, way), justify="right", no_wrap=True)
    for card in cards:
        gpu = card.gpu
        table.add_row(
            Text(plain_text(card.preset)),
            Text(plain_text(gpu.name)),
            _gib((gpu.memory_mib or 0) * 2**20),
            _gib(gpu.budget_bytes()),
            card.precision or "cannot",
            *(_count(card.largest[way]) for way in ways),
        )
    return table


def parts_table(estimates: Mapping[tuple[str, str], MemoryEstimate]) -> Table:
    """Lay out what every batch size holds, and what a sample adds to a large one."""
    table = new_table("What it takes (GiB), predicted", is_dense=True)
    table.add_column("", no_wrap=True, style="bold")
    table.add_column("in")
    parts = {  # without those that no way has, such as an average that is not kept
        heading: fields
        for heading, fields in _PARTS.items()
        if any(_size_bytes(estimate, fields) for estimate in estimates.values())
    }
    for heading in (*parts, "MiB a sample"):
        table.add_column(heading, justify="right", overflow="fold")
    precisions: dict[tuple[str, MemoryEstimate], list[str]] = {}
    for (way, precision), estimate in estimates.items():
        precisions.setdefault((way, estimate), []).append(precision)
    for (way, estimate), names in precisions.items():
        sizes = (_size_bytes(estimate, fields) for fields in parts.values())
        cells = (_gib(size) if size else "" for size in sizes)
        table.add_row(way, ", ".join(names), *cells, f"{estimate.bytes_per_sample / 2**20:.1f}")
    return table


def seed_table(seeds: Sequence[SeedFit]) -> Table:
    """Lay out what becomes of the guide's batches."""
    title = "The optimisation guide's batches and what they take (GiB), predicted"
    table = new_table(title, is_dense=True)
    table.add_column("gpu=", no_wrap=True, style="bold")
    for heading in ("batch", "px", "usable", "plain", "check-\npointed", "largest\nplain"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for seed in seeds:
        needed = seed.needed_bytes
        table.add_row(
            Text(plain_text(seed.preset)),
            str(seed.row.batch_size),
            str(seed.row.image_size),
            _gib(seed.gpu.budget_bytes()),
            *(_gib(needed[way]) if way in needed else "" for way in ("plain", "checkpointed")),
            _count(seed.largest.get("plain")),
            Text(seed.verdict, style=_STYLES.get(seed.verdict, "")),
        )
    return table


def _size_bytes(estimate: MemoryEstimate, fields: Sequence[str]) -> int:
    """Add up parts of what every batch holds."""
    return sum(int(getattr(estimate.fixed, field)) for field in fields)


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f}"
