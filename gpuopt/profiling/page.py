"""The page that a person looks at: one HTML file, nothing from elsewhere, no script."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from gpuopt.profiling.drawings import bar, memory_curve, stacked_bar, tint
from gpuopt.profiling.kernels import KernelRow
from gpuopt.profiling.operators import OperatorRow
from gpuopt.profiling.profile import Profile
from gpuopt.profiling.style import STYLE
from gpuopt.profiling.words import count_text, figure, percent

__all__ = ["FileNote", "profile_page"]

_MOST_ROWS = 15
_LONGEST_NAME = 72


class FileNote(NamedTuple):
    """A file beside the page, and what it is for."""

    name: str
    note: str


def profile_page(
    profile: Profile,
    facts: Mapping[str, str],
    files: Sequence[FileNote] = (),
    choices: Sequence[str] = (),
) -> str:
    """Write the page.

    Args:
        profile: What was found.
        facts: What was run and where.
        files: That lie beside it.
        choices: Each automatic choice as a line.
    """
    sections = [
        _head(profile, facts),
        _shares(profile),
        _phases(profile),
        _kernels("Kernels", profile.kernels, profile),
        _operators("Operators", profile.operators, profile, kind="operator"),
        _operators("Python functions", profile.sites, profile, kind="function"),
        _waits(profile),
        _kernels("Copies", profile.copies, profile),
        _memory(profile),
        _files(files),
        _notes(profile, choices),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>gpuopt profile</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(profile: Profile, facts: Mapping[str, str]) -> str:
    advice = "".join(f"<p>{escape(sentence)}</p>" for sentence in profile.advice())
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return (
        f'<header><p class="name">gpuopt profiler</p><h1>{escape(profile.headline())}</h1>'
        f"{advice}<dl>{items}</dl></header>"
    )


def _shares(profile: Profile) -> str:
    rows = [
        (
            f'<span class="part"><svg class="key" viewBox="0 0 8 8" aria-hidden="true">'
            f'<rect width="8" height="8" fill-opacity="{tint(place):.2f}"/></svg>'
            f"{escape(share.name)}</span>",
            figure(share.ms),
            percent(share.ratio),
            escape(share.meaning),
        )
        for place, share in enumerate(profile.shares)
    ]
    whose = "device" if profile.has_device else "host"
    table = _table(("", "ms a step", "%", "what it is"), rows, texts=(0, 3))
    return _section(f"The step, on the {whose}", stacked_bar(profile.shares) + table)


def _phases(profile: Profile) -> str:
    if not profile.phases:
        return ""
    host = sum(phase.host_ms for phase in profile.phases)
    titles = ["phase", "host ms", "%", ""]
    titles += ["device ms"] if profile.has_device else []
    rows = []
    for phase in profile.phases:
        ratio = phase.host_ms / host if host else 0.0
        row = [escape(phase.name), figure(phase.host_ms), percent(ratio), bar(ratio)]
        rows.append(row + ([figure(phase.device_ms or 0.0)] if profile.has_device else []))
    return _section("Phases", _table(titles, rows, texts=(0,)))


def _operators(title: str, found: Sequence[OperatorRow], profile: Profile, *, kind: str) -> str:
    if not found:
        return ""
    titles = [kind, "own ms", "%", ""]
    titles += ["host ms"] if profile.has_device else []
    titles += ["calls"]
    rows = []
    for row in found[:_MOST_ROWS]:
        own = profile.own_ms(row)
        cells = [_name(row.name), figure(own), percent(own / profile.step_ms)]
        cells.append(bar(own / profile.step_ms))
        cells += [figure(row.self_host_ms / profile.steps)] if profile.has_device else []
        rows.append([*cells, count_text(row.calls / profile.steps)])
    return _section(f"{title}{_of(found)}", _table(titles, rows, texts=(0,)))


def _kernels(title: str, found: Sequence[KernelRow], profile: Profile) -> str:
    if not found:
        return ""
    has_speed = any(row.bytes is not None for row in found)
    titles = ["name", "ms", "%", "", "runs", "mean µs", *(["GiB/s"] if has_speed else [])]
    rows = []
    for row in found[:_MOST_ROWS]:
        ms = row.device_ms / profile.steps
        ratio = ms / profile.step_ms
        cells = [_name(row.name), figure(ms), percent(ratio), bar(ratio)]
        cells += [count_text(row.calls / profile.steps), figure(1000 * row.device_ms / row.calls)]
        speed = row.gib_per_second
        rows.append([*cells, *([figure(speed) if speed else "n/a"] if has_speed else [])])
    return _section(f"{title}{_of(found)}", _table(titles, rows, texts=(0,)))


def _waits(profile: Profile) -> str:
    if not profile.waits:
        return ""
    rows = [
        (
            escape(row.name),
            _name(row.operator or "outside of operators"),
            figure(row.host_ms / profile.steps),
            count_text(row.calls / profile.steps),
        )
        for row in profile.waits[:_MOST_ROWS]
    ]
    titles = ("call", "operator", "host ms", "calls")
    return _section(f"Synchronisations{_of(profile.waits)}", _table(titles, rows, texts=(0, 1)))


def _memory(profile: Profile) -> str:
    peak = profile.peak_bytes
    if peak is None or len(profile.memory) < 2:
        return ""
    reserved = max(point.reserved_bytes for point in profile.memory)
    text = f"Most at once: {peak / 2**20:,.1f} MiB"
    if profile.has_device:
        text += f" in tensors, {reserved / 2**20:,.1f} MiB by the allocator"
    else:
        text += " more than when recording began"
    first, last = profile.memory[0].ms, profile.memory[-1].ms
    return _section(
        "Memory",
        f"<p>{text}.</p>{memory_curve(profile.memory)}"
        f'<p class="axis"><span>{first:,.0f} ms</span><span>{last:,.0f} ms</span></p>',
    )


def _files(files: Sequence[FileNote]) -> str:
    items = "".join(
        f'<li><a href="{escape(file.name, quote=True)}">{escape(file.name)}</a> '
        f"{escape(file.note)}</li>"
        for file in files
    )
    return _section("Files", f"<ul>{items}</ul>") if items else ""


def _notes(profile: Profile, choices: Sequence[str]) -> str:
    text = f"Means of {profile.steps} recorded steps of one training"
    if profile.overhead_ratio is not None:
        text += f"; recorded, a step took {figure(profile.overhead_ratio)} times as long as before"
    items = "".join(f"<li>{escape(choice)}</li>" for choice in choices)
    return _section(
        "How it was measured", f"<p>{text}.</p>" + (f"<ul>{items}</ul>" if items else "")
    )


# --- pieces ------------------------------------------------------------------------------------


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]], *, texts: Sequence[int]) -> str:
    """Make a table of cells that are HTML; columns of figures stand at the right."""

    def cells(row: Iterable[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if place in texts else ' class=n'}>{cell}</{tag}>"
            for place, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells(map(escape, titles), 'th')}</tr></thead>"
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _of(found: Sequence[object]) -> str:
    return f", {_MOST_ROWS} of {len(found)}" if len(found) > _MOST_ROWS else ""


def _name(name: str) -> str:
    """Shorten a name of C++; the whole is shown where a pointer rests."""
    short = name.removeprefix("void ")
    if len(short) > _LONGEST_NAME:
        short = f"{short[: _LONGEST_NAME - 1]}…"
    return f'<code title="{escape(name, quote=True)}">{escape(short)}</code>'
