"""Work through image files in parallel processes, with a progress bar."""

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpuopt.data.row_ledger import RowLedger
from gpuopt.errors import FaultError

__all__ = ["RowTask", "work_through"]

RowTask = Callable[[npt.NDArray[np.int64], Sequence[Path]], dict[int, str]]
"""Handles rows and their files; returns the rejected rows with the reason. Picklable."""

_CHUNK_ROWS = 32
_SAVE_INTERVAL_S = 5.0


def work_through(
    task: RowTask,
    paths: Sequence[Path],
    ledger: RowLedger,
    *,
    title: str,
    save: Callable[[], None],
) -> None:
    """Run a task over the pending rows of a ledger.

    Args:
        task: What to do.
        paths: The file of each row.
        ledger: Which rows are pending; marked as they are done.
        title: Words before the progress bar, which is shown on a terminal only.
        save: Called every few seconds and at the end, also when the work is interrupted.

    Raises:
        FaultError: When a worker process is killed.
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
            for rows, rejected in _results(task, paths, chunks):
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
    task: RowTask, paths: Sequence[Path], chunks: Sequence[npt.NDArray[np.int64]]
) -> Iterator[tuple[npt.NDArray[np.int64], dict[int, str]]]:
    processes = min(_processors(), len(chunks))
    if processes < 2:
        for rows in chunks:
            yield rows, task(rows, [paths[row] for row in rows])
        return
    # Fork where there is one: the children only decode, and a fresh interpreter would import
    # torch for seconds. Python 3.12 warns of any fork beside threads.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*use of fork.*", DeprecationWarning)
                futures = _submit(pool, task, paths, chunks)
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(
    pool: Executor,
    task: RowTask,
    paths: Sequence[Path],
    chunks: Sequence[npt.NDArray[np.int64]],
) -> dict[Future[dict[int, str]], npt.NDArray[np.int64]]:
    return {pool.submit(task, rows, [paths[row] for row in rows]): rows for rows in chunks}


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
