"""Values of the command line in Hydra's grammar, which knows few signs beside ASCII letters."""

import re

__all__ = ["quoted", "readable", "unquoted"]

# What Hydra cannot read in a value without quotes; `=` only in `stages=4`.
_FOREIGN = re.compile(r"[^\x00-\x7f]|[()&#!;<>^`~'\"={}\[\]]")
_SYNTAX = re.compile(
    r"[\[{]|(?:bool|choice|extend_list|float|glob|int|interval|json_str|range|shuffle|sort|str|tag)\("
)


def quoted(text: str) -> str:
    """Write a text in quotes, whatever is in it."""
    # A backslash means itself unless a quote follows, the closing one included.
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", text)
    return "'" + doubled.replace("'", "\\'") + "'"


def unquoted(value: str) -> str:
    """Take the quotes off a value that has some."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0])
    return value


def readable(word: str) -> str:
    """Put quotes around a value that Hydra cannot read, such as `data.root=사진 (1)`.

    Left alone are lists, dictionaries, interpolations, functions such as `range(1, 5)`, what has
    quotes already, and what no terminal shows. Of several values, a sweep, each gets its own.

    Args:
        word: `key=value`, or any other word.
    """
    key, equals, value = word.partition("=")
    if not equals or not value.isprintable() or "${" in value or _SYNTAX.match(value):
        return word
    values = value.split(",")
    if any(one.strip().startswith(("'", '"')) for one in values):
        return word
    return f"{key}={','.join(quoted(one) if _FOREIGN.search(one) else one for one in values)}"
