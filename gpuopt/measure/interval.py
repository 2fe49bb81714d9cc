"""A figure with its confidence interval."""

from dataclasses import asdict, dataclass

__all__ = ["Interval"]


@dataclass(frozen=True)
class Interval:
    """A measured value and the bounds of its confidence interval.

    Attributes:
        value: The figure on the data as it is.
        low: Lower bound.
        high: Upper bound.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside: for a difference, whether it is a finding."""
        return self.low > 0.0 or self.high < 0.0

    def __str__(self) -> str:
        """Word it as `0.923 (0.914 to 0.932)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def as_dict(self) -> dict[str, float]:
        """Return plain values for `results.json`."""
        return asdict(self)
