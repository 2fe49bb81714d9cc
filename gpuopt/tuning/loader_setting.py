"""How a loader works beside the training. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LoaderSetting"]


@dataclass(frozen=True)
class LoaderSetting:
    """What a DataLoader is told about its processes.

    Attributes:
        num_workers: Processes; 0 loads in the main process.
        prefetch_factor: Batches that each of them holds ready.
        pin_memory: Whether batches are copied to page-locked memory.
    """

    num_workers: int
    prefetch_factor: int = 2
    pin_memory: bool = False

    @property
    def waiting_batches(self) -> int:
        """Most batches that are in memory at once, with the one in use."""
        return self.num_workers * self.prefetch_factor + 1

    def loader_arguments(self) -> dict[str, Any]:
        """Return the arguments of `torch.utils.data.DataLoader`."""
        return {
            "num_workers": self.num_workers,
            "prefetch_factor": self.prefetch_factor if self.num_workers else None,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.num_workers > 0,
        }

    def apply_to(self, data: Any) -> None:
        """Set what a LightningDataModule has of these as attributes, as gpuopt's own do."""
        for name, value in asdict(self).items():
            if hasattr(data, name):
                setattr(data, name, value)

    def __str__(self) -> str:
        """Word it as on a command line."""
        pinned = str(self.pin_memory).lower()
        return (
            f"num_workers={self.num_workers} prefetch_factor={self.prefetch_factor} "
            f"pin_memory={pinned}"
        )
