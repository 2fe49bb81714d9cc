"""An automatic choice: what was chosen, on what evidence, and how to pin it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Choice", "Evidence"]

Evidence = Literal["measured", "predicted", "table", "given"]


@dataclass(frozen=True)
class Choice:
    """One setting that gpuopt picked for the user.

    Attributes:
        key: The configuration key, as typed on the command line.
        value: The value that was picked.
        evidence: Where it comes from. `given` means that the user pinned it.
        reason: One clause that says why, with the figures behind it.
    """

    key: str
    value: Any
    evidence: Evidence
    reason: str

    def __str__(self) -> str:
        """Word the choice as the one line that commands print."""
        line = f"{self.key}={self.value} ({self.evidence}: {self.reason})"
        return line if self.evidence == "given" else f"{line}; pin with {self.key}=..."

    def as_dict(self) -> dict[str, Any]:
        """Return the choice as plain values for `results.json`."""
        return asdict(self)
