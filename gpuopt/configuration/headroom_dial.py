"""The names of the one dial for memory: the share of it to keep free."""

from collections.abc import Sequence

from gpuopt.errors import InputError

__all__ = ["with_one_dial"]

# Names of the one dial for memory, and whether they tell the share that is used, not kept free.
_DIAL = "gpu.headroom_ratio"
_DIAL_TELLS_USED = {
    "headroom": False,
    "memory_fraction": True,
    "memory_safety_margin": False,
    "safety_factor": True,
}


def with_one_dial(words: Sequence[str]) -> list[str]:
    """Spell the names of the share of memory as the one setting that they mean."""
    names = {word: word.partition("=")[0].replace("-", "_") for word in words if "=" in word}
    aliases = [word for word in words if names.get(word) in _DIAL_TELLS_USED]
    dials = [word for word in words if word in aliases or names.get(word) == _DIAL]
    if aliases and len(dials) > 1:
        raise InputError(
            f"{' '.join(dials)}: these set one dial, {_DIAL}, the share of the memory to keep "
            "free: give one of them"
        )
    return [_dialled(word, names[word]) if word in aliases else word for word in words]


def _dialled(word: str, name: str) -> str:
    try:
        shares = [float(share) for share in word.partition("=")[2].split(",")]  # with -m several
    except ValueError as error:
        raise InputError(f"{word} is no share of the memory: give a number from 0 to 1") from error
    kept = [1 - share if _DIAL_TELLS_USED[name] else share for share in shares]
    return f"{_DIAL}={','.join(f'{share:g}' for share in kept)}"
