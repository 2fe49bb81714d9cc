"""How the answer of `gpuopt recommend_tta` looks in a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.measure import Interval, duration_text
from gpuopt.report.names import plain_text
from gpuopt.report.tables import difference_text, interval_text, new_table
from gpuopt.session.recommendation import TtaRecommendation
from gpuopt.tta.recommender import Option

__all__ = ["recommendation_table"]


def recommendation_table(answer: TtaRecommendation) -> RenderableType:
    """Lay out the policies, what is recommended, and on what evidence."""
    parts: list[RenderableType] = [_policies(answer), Text(plain_text(_time_in_words(answer)))]
    chosen = answer.recommended.chosen
    if chosen is not None and not chosen.scored.is_preset:
        names = ", ".join(view.name for view in chosen.scored.views)
        parts.append(Text(plain_text(f"views of {chosen.scored.name}: {names}")))
    parts += [Text(plain_text(note)) for note in answer.notes]
    style = "bold red" if chosen is None else "bold green"
    parts.append(Text(plain_text(answer.answer), style=style))
    return Group(*parts)


def _policies(answer: TtaRecommendation) -> Table:
    models = "" if answer.folds == 1 else f", the mean of {answer.folds} folds"
    table = new_table(
        f"{answer.model_name} at {answer.image_size} px{models}: {answer.images} images"
    )
    held_out = "validation" if answer.folds == 1 else "out-of-fold"
    table.caption = Text(
        f"macro-F1 of {answer.scores.report_images} {held_out} images, 95% bootstrap intervals; "
        f"greedy views were chosen on {answer.scores.selection_images} others\n"
        "frontier: no quicker policy had a higher macro-F1 on those; a difference whose interval "
        "holds 0 is none",
        style="dim",
    )
    table.caption_justify = "left"
    table.add_column("policy", style="bold", no_wrap=True)
    table.add_column("views", justify="right", no_wrap=True)
    table.add_column("minutes (at most)", justify="right", no_wrap=True)
    table.add_column("macro-F1", justify="right", no_wrap=True)
    table.add_column("against none", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for option in answer.options:
        table.add_row(
            Text(plain_text(option.scored.name)),
            str(len(option.scored.views)),
            _minutes(option.minutes),
            interval_text(option.scored.macro_f1),
            difference_text(option.scored.difference, in_words=False),
            _mark(answer, option),
        )
    return table


def _mark(answer: TtaRecommendation, option: Option) -> Text:
    if option is answer.recommended.chosen:
        return Text("recommended", style="bold green")
    if option is answer.recommended.nearest:
        return Text("nearest", style="bold yellow")
    return Text("frontier" if option.is_on_frontier else "", style="dim")


def _minutes(minutes: Interval) -> Text:
    return Text.assemble(f"{minutes.value:.3g}", (f" ({minutes.high:.3g})", "dim"))


def _time_in_words(answer: TtaRecommendation) -> str:
    time = answer.time
    start = duration_text(time.startup_s + time.overhead_s)
    return (
        f"time ({time.evidence}): {time.reason}; {1 / time.forward_s:.0f} views a second in "
        f"chunks of {time.chunk_size}, {start} to start"
    )
