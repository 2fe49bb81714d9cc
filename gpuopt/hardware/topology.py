"""How the cards of a machine are connected with each other."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpuopt.hardware.card_facts import nvml_value

__all__ = ["CardLink", "read_links"]

_MOST_NVLINKS = 18
# From nvml.h: nvmlGpuTopologyLevel_t, in the words of `nvidia-smi topo -m`.
_LEVELS = {
    0: "one board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "one host bridge",
    40: "one NUMA node",
    50: "between NUMA nodes",
}


@dataclass(frozen=True)
class CardLink:
    """The way between two cards. None means that NVML does not tell.

    Attributes:
        first: Position in CUDA's order.
        second: Position in CUDA's order.
        path: The farthest thing that data cross, in words.
        reads_peer: Whether one card can read the other's memory without the host.
        nvlinks: Active links of the first card that lead to the second or to a switch.
    """

    first: int
    second: int
    path: str | None = None
    reads_peer: bool | None = None
    nvlinks: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def read_links(nvml: Any, handles: Sequence[Any]) -> list[CardLink]:
    """Read the ways between all pairs of cards.

    Args:
        nvml: The module `pynvml`, initialised.
        handles: Of the cards, in CUDA's order; None for one that NVML does not know.
    """
    return [
        _link(nvml, first, second, handles[first], handles[second])
        for first in range(len(handles))
        for second in range(first + 1, len(handles))
        if handles[first] is not None and handles[second] is not None
    ]


def _link(nvml: Any, first: int, second: int, handle: Any, other: Any) -> CardLink:
    read_index = getattr(nvml, "NVML_P2P_CAPS_INDEX_READ", 0)
    index = read_index[0] if isinstance(read_index, tuple) else read_index  # as pynvml spells it
    status = nvml_value(nvml, "nvmlDeviceGetP2PStatus", handle, other, index)
    return CardLink(
        first,
        second,
        path=nvml_value(
            nvml, "nvmlDeviceGetTopologyCommonAncestor", handle, other, convert=_LEVELS.get
        ),
        reads_peer=None if status is None else int(status) == 0,
        nvlinks=_nvlinks(nvml, handle, other),
    )


def _nvlinks(nvml: Any, handle: Any, other: Any) -> int | None:
    """Count active links to another card; where all lead to switches, these reach every card."""
    target = nvml_value(nvml, "nvmlDeviceGetPciInfo", other, convert=lambda info: info.busId)
    active = direct = 0
    known = False
    for number in range(_MOST_NVLINKS):
        state = nvml_value(nvml, "nvmlDeviceGetNvLinkState", handle, number)
        known = known or state is not None
        if not state:
            continue
        active += 1
        end = nvml_value(
            nvml,
            "nvmlDeviceGetNvLinkRemotePciInfo",
            handle,
            number,
            convert=lambda info: info.busId,
        )
        direct += end is not None and end == target
    if not known:
        return None
    return direct or active
