"""Which steps of a training are timed, passed over and recorded."""

from dataclasses import dataclass

from gpuopt.errors import InputError

__all__ = ["Window"]


@dataclass(frozen=True)
class Window:
    """Optimizer steps, one kind after the other.

    Attributes:
        wait: Without the profiler; only timed.
        warmup: That the profiler takes part in and forgets.
        active: That are recorded.
    """

    wait: int
    warmup: int
    active: int

    @classmethod
    def of(cls, steps: int | None, wait: int | str, warmup: int, active: int) -> "Window":
        """Settle a window of which `steps` or `wait` follows from the others.

        Args:
            steps: All of them; None: the sum of the others.
            wait: A number, or `auto`: what the others leave.
            warmup: At least 1.
            active: At least 1.

        Raises:
            InputError: When the numbers do not add up.
        """
        marked = warmup + active
        if wait == "auto":
            if steps is None or steps < marked:
                raise InputError(
                    f"steps={steps} is less than warmup={warmup} and active={active} together: "
                    f"give at least {marked}"
                )
            return cls(steps - marked, warmup, active)
        window = cls(int(wait), warmup, active)
        if steps not in (None, window.steps):
            raise InputError(
                f"steps={steps} is not wait={wait} + warmup={warmup} + active={active} = "
                f"{window.steps}: leave steps or wait out"
            )
        return window

    @property
    def steps(self) -> int:
        """All of them."""
        return self.wait + self.warmup + self.active

    def within(self, steps: int) -> "Window":
        """Fit the window into a training that is shorter: the wait goes first.

        Raises:
            InputError: When the training has less than two steps.
        """
        if steps >= self.steps:
            return self
        if steps < 2:
            raise InputError(
                f"the training has {steps} step(s), and the profiler needs two: give a smaller "
                "global_batch_size"
            )
        active = min(self.active, steps - 1)
        warmup = min(self.warmup, steps - active)
        return Window(steps - active - warmup, warmup, active)

    def __str__(self) -> str:
        return (
            f"{self.steps} steps: {self.wait} without the profiler, {self.warmup} to warm it up, "
            f"{self.active} recorded"
        )
