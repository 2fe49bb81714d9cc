"""Work through image files in parallel processes, with a progress bar."""

import contextlib
import ctypes
import multiprocessing
import queue
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpuopt.data.child_process import ObeyParent, signals_held_back
from gpuopt.data.row_ledger import RowLedger
from gpuopt.errors import FaultError
from gpuopt.hardware import available_cpus

__all__ = ["RowTask", "work_through"]

RowTask = Callable[[npt.NDArray[np.int64], Sequence[Path]], dict[int, str]]
"""Handles rows and their files; returns the rejected rows with the reason. Picklable."""

_CHUNK_ROWS = 32
_SAVE_INTERVAL_S = 5.0
_STARTED, _FINISHED = 1, 2
_Outcome = tuple[npt.NDArray[np.int64], dict[int, str]]


def work_through(
    task: RowTask,
    paths: Sequence[Path],
    ledger: RowLedger,
    *,
    title: str,
    save: Callable[[], None],
    stuck_after_s: float = 300.0,
) -> None:
    """Run a task over the pending rows of a ledger.

    Args:
        task: What to do.
        paths: The file of each row.
        ledger: Which rows are pending; marked as they are done.
        title: Words before the progress bar, which is shown on a terminal only.
        save: Called every few seconds and at the end, also when the work is interrupted.
        stuck_after_s: Seconds without any finished file after which worker processes are taken
            for stuck. A single CPU works in this process, without a limit.

    Raises:
        FaultError: When a worker process is killed or stuck.
    """
    pending = ledger.pending()
    chunks = [pending[i : i + _CHUNK_ROWS] for i in range(0, len(pending), _CHUNK_ROWS)]
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    saved_at = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=len(paths), completed=len(paths) - len(pending))
        try:
            # Closed at once when this loop fails, so that the processes do not finish the rest.
            with contextlib.closing(_results(task, paths, chunks, stuck_after_s)) as results:
                for rows, rejected in results:
                    ledger.mark(rows, rejected)
                    progress.advance(bar, len(rows))
                    if time.monotonic() - saved_at > _SAVE_INTERVAL_S:
                        save()
                        saved_at = time.monotonic()
        except BrokenProcessPool:
            raise FaultError(
                "a process that reads images was killed, perhaps for want of memory: "
                "run the command again, it goes on where it stopped"
            ) from None
        finally:
            save()


def _results(
    task: RowTask,
    paths: Sequence[Path],
    chunks: Sequence[npt.NDArray[np.int64]],
    stuck_after_s: float,
) -> Generator[_Outcome, None, None]:
    processes = min(available_cpus(), len(chunks))
    if processes < 2:
        for rows in chunks:
            yield rows, task(rows, [paths[row] for row in rows])
    else:
        yield from _pooled(task, paths, chunks, stuck_after_s, processes)


def _pooled(
    task: RowTask,
    paths: Sequence[Path],
    chunks: Sequence[npt.NDArray[np.int64]],
    stuck_after_s: float,
    processes: int,
) -> Generator[_Outcome, None, None]:
    # Fork where there is one: the children only decode, and a fresh interpreter would import
    # torch for seconds. Python 3.12 warns of any fork beside threads.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    marks = context.RawArray(ctypes.c_uint8, len(paths))
    seen = np.frombuffer(memoryview(marks), np.uint8)
    settings = (ObeyParent(), marks)
    with ProcessPoolExecutor(processes, context, _prepare, settings) as pool:
        try:
            with warnings.catch_warnings(), signals_held_back():
                warnings.filterwarnings("ignore", ".*use of fork.*", DeprecationWarning)
                futures = {
                    pool.submit(_work, task, rows, [paths[row] for row in rows]): rows
                    for rows in chunks
                }
            workers = list(pool._processes.values())
            try:
                for future in _finished(futures, seen, stuck_after_s):
                    yield futures[future], future.result()
            except _StuckError as stuck:
                for worker in workers:
                    worker.kill()
                raise FaultError(
                    f"reading or writing {paths[stuck.row]} has not ended for {stuck_after_s:g} s: "
                    "check the disk that holds it and run the command again, it goes on where it "
                    "stopped"
                ) from None
        finally:
            pool.shutdown(cancel_futures=True)


class _StuckError(Exception):
    """No process has finished a row for too long.

    Args:
        row: One that was begun.
    """

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def _finished(
    futures: Iterable[Future[dict[int, str]]], marks: npt.NDArray[np.uint8], stuck_after_s: float
) -> Iterator[Future[dict[int, str]]]:
    """Yield futures as they are done, and look in between whether single rows still get done."""
    done: queue.SimpleQueue[Future[dict[int, str]]] = queue.SimpleQueue()
    awaited = 0
    for future in futures:
        future.add_done_callback(done.put)
        awaited += 1
    count, changed_at = 0, time.monotonic()
    while awaited:
        try:
            yield done.get(timeout=min(1.0, stuck_after_s / 4))
            awaited -= 1
            changed_at = time.monotonic()
        except queue.Empty:
            count_now = int(np.count_nonzero(marks == _FINISHED))
            if count_now != count:
                count, changed_at = count_now, time.monotonic()
            elif time.monotonic() - changed_at > stuck_after_s:
                raise _StuckError(int(np.argmax(marks == _STARTED))) from None


_marks: "ctypes.Array[ctypes.c_uint8] | None" = None  # of a worker process, which has one pool


def _prepare(obey: ObeyParent, marks: "ctypes.Array[ctypes.c_uint8]") -> None:
    global _marks  # the one way from an initializer to the tasks of its process
    obey()
    _marks = marks


def _work(task: RowTask, rows: npt.NDArray[np.int64], paths: Sequence[Path]) -> dict[int, str]:
    assert _marks is not None
    rejected = {}
    for i, row in enumerate(rows):
        _marks[row] = _STARTED
        rejected.update(task(rows[i : i + 1], paths[i : i + 1]))
        _marks[row] = _FINISHED
    return rejected
