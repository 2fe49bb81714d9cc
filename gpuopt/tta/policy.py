"""The choice of views as a configuration holds it. Imports no torch."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpuopt.errors import InputError, nearest
from gpuopt.tta.views import View, parse_views

__all__ = ["MERGES", "TestTimeAugmentation"]

MERGES = ("mean", "geometric")
_LARGEST_CHUNK = 65_536


@dataclass
class TestTimeAugmentation:
    """Which views are predicted and how their probabilities are merged.

    Attributes:
        name: What the policy is called in plans and results.
        views: One mapping per view, see `gpuopt.tta.views`.
        merge: `mean`, or `geometric` for the renormalised geometric mean.
        chunk_size: Images per forward, or `auto`: what fits, at most the size of a batch.
    """

    __test__: ClassVar[bool] = False  # the name starts like a test class, and pytest believes it

    name: str = "none"
    views: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    merge: str = "mean"
    chunk_size: Any = "auto"

    def check(self) -> None:
        """Refuse what cannot be computed, without importing torch.

        Raises:
            InputError: For a wrong view, merge or chunk size.
        """
        self.parsed_views()
        if self.merge not in MERGES:
            raise InputError(f"tta.merge={self.merge} is unknown{nearest(str(self.merge), MERGES)}")
        size = self.chunk_size
        whole = isinstance(size, int) and not isinstance(size, bool)
        if size != "auto" and not (whole and 1 <= size <= _LARGEST_CHUNK):
            raise InputError(
                f"tta.chunk_size must be auto or a whole number from 1 to {_LARGEST_CHUNK}, "
                f"not {size!r}"
            )

    @property
    def fingerprint(self) -> str:
        """Digest of what decides the merged probabilities: the views, their shares, the merge.

        A policy by another name, with its views in another order or with the chunks of another
        size has the same one.

        Raises:
            InputError: See `parse_views`.
        """
        views = self.parsed_views()
        total = sum(view.weight for view in views)
        parts = sorted([view.operations, f"{view.weight / total:.6g}"] for view in views)
        merge = "" if len(views) == 1 else self.merge  # one view is what it is
        return hashlib.sha256(json.dumps([parts, merge]).encode()).hexdigest()[:16]

    @property
    def is_single_view(self) -> bool:
        """Whether only the unchanged image is predicted."""
        views = self.parsed_views()
        return len(views) == 1 and views[0].is_identity

    def parsed_views(self) -> tuple[View, ...]:
        """Return the views as objects.

        Raises:
            InputError: See `parse_views`.
        """
        return parse_views(self.views)
