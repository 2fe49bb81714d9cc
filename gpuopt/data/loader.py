"""The loader: PyTorch's worker processes behind the stateful protocol of Lightning."""

import re
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from gpuopt.data.batch import Batch
from gpuopt.data.child_process import ObeyParent, signals_held_back
from gpuopt.data.dataset import ImageDataset
from gpuopt.data.window_sampler import EvaluationSampler, GlobalWindowSampler
from gpuopt.errors import FaultError
from gpuopt.hardware.shared_memory import full_shared_memory

__all__ = ["WindowLoader", "loader_fault"]

# PyTorch notices a killed worker by a signal, which may reach another thread than the one that
# waits for the batch, or else when a wait ends: so none may be as long as the user's limit.
_POLL_S = 2.0
# A process that hangs in the kernel, as on a dead network disk, does not even end by SIGKILL.
_KILL_S = 5.0
# PyTorch's warning, which does not know that workers may wait for a disk most of the time.
_MORE_THAN_PROCESSORS = ".*suggested max number of worker.*"
# What a worker leaves behind that dies while the main process fetches a batch's memory from it.
_BROKEN_OFF = (ConnectionError, EOFError)


class WindowLoader:
    """Yields a `Batch` for every chunk of its sampler.

    It holds a `DataLoader` instead of being one: Lightning rebuilds real ones for prediction and
    on several devices, and warns of few workers, where our samplers already do the right thing.
    Lightning sees the sampler (for `set_epoch`) and the stateful protocol (so that it does not
    warn when a run resumes in mid-epoch); the position itself follows from Lightning's own counts,
    see `gpuopt.data.resume`.

    Args:
        dataset: What reads the images.
        sampler: What says which.
        num_workers: Loader processes; they live as long as the loader.
        prefetch_factor: Batches that each of them holds ready.
        pin_memory: Copy batches to page-locked memory; ignored without a CUDA device.
        timeout_s: Seconds after which a silent worker is taken for dead; 0 waits for ever.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: GlobalWindowSampler | EvaluationSampler,
        *,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self._timeout_s = timeout_s
        self.batch_sampler = None  # Lightning asks whether evaluation is shuffled
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _MORE_THAN_PROCESSORS)
            self._loader = DataLoader(
                dataset,
                sampler=sampler,
                batch_size=None,
                num_workers=num_workers,
                prefetch_factor=prefetch_factor if num_workers else None,
                pin_memory=pin_memory and torch.cuda.is_available(),
                timeout=min(_POLL_S, timeout_s or _POLL_S) if num_workers else 0,
                persistent_workers=num_workers > 0,
                # Without its own generator every iteration would take a number from the global one.
                generator=torch.Generator().manual_seed(0),
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing starts, and the sampler's start is not used up, before the first
        # batch is asked for. Lightning begins one iteration only to see whether it can.
        self._loader.worker_init_fn = ObeyParent()
        with warnings.catch_warnings(), signals_held_back():
            # Python 3.12 warns of any fork beside threads; the workers only read and copy arrays.
            warnings.filterwarnings("ignore", ".*use of fork.*", DeprecationWarning)
            warnings.filterwarnings("ignore", _MORE_THAN_PROCESSORS)
            batches = iter(self._loader)
        try:
            while (batch := self._next(batches)) is not None:
                yield batch
        except Exception as error:
            # Left to the garbage collector, the workers of a failed iteration hang for 5 seconds.
            self.close()
            fault = loader_fault(error)
            if fault is None and self._loader.num_workers and isinstance(error, _BROKEN_OFF):
                fault = _killed_worker(" while it handed a batch over")
            if fault is None:
                raise
            raise fault from error

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """Wait for a batch in short turns, after each of which PyTorch looks for dead workers."""
        asked_at = time.monotonic()
        while True:
            try:
                return next(batches, None)
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
                if self._timeout_s and time.monotonic() - asked_at >= self._timeout_s:
                    raise

    def close(self) -> None:
        """Stop the worker processes; the next iteration starts new ones."""
        iterator, self._loader._iterator = self._loader._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            try:
                iterator._shutdown_workers()
            finally:
                _kill(iterator._workers)

    @property
    def _iterator(self) -> Any:
        """The live iterator, by which Lightning stops the workers at the end."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        if value is None:  # Lightning has asked the workers to end; see that they do
            self.close()
        else:
            self._loader._iterator = value

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is derived from Lightning's progress."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept the empty state of `state_dict`."""


def _kill(workers: Sequence[BaseProcess]) -> None:
    """End the workers that PyTorch's request has not ended.

    They answer it in Python, which C code that keeps the interpreter to itself puts off.
    """
    left = [worker for worker in workers if worker.is_alive()]
    for worker in left:
        worker.kill()
    for worker in left:
        worker.join(_KILL_S)


def loader_fault(error: BaseException) -> FaultError | None:
    """Word the failure of a loader worker as one line.

    PyTorch raises it wherever the main process happens to be, so a command has to look at every
    `RuntimeError` that ends it.

    Args:
        error: What was raised.

    Returns:
        The error to show instead, or None when `error` is something else.
    """
    message = str(error)
    if isinstance(error, FaultError):
        # A worker's error carries its trace; its last line is the message.
        last = message.strip().splitlines()[-1] if "Original Traceback" in message else message
        return FaultError(re.sub(r"^[\w.]*FaultError: ", "", last))
    if not isinstance(error, RuntimeError):
        return None
    if "DataLoader timed out" in message:
        if (full := full_shared_memory()) is not None:
            return FaultError(
                f"a data loader worker could not hand its batch over: {full}; "
                "lower num_workers or micro_batch_size, or enlarge it (docker run --shm-size=8g)"
            )
        return FaultError(
            "a data loader worker stopped answering: check the disk that holds the images, "
            "or raise data.worker_timeout_s"
        )
    if re.search(r"DataLoader worker \(pid\(?s?\)?.*(killed|exited)", message):
        signal = re.search(r"killed by signal: ([\w ]+)", message)
        cause = f" by signal {signal.group(1).strip()}" if signal else ""
        return _killed_worker(cause)
    return None


def _killed_worker(how: str) -> FaultError:
    return FaultError(
        f"a data loader worker was killed{how}: this machine may be out of memory or of "
        "shared memory (/dev/shm); lower num_workers"
    )
