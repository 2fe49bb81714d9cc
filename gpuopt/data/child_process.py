"""What a child process is told first: its parent alone decides, and it never outlives it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from gpuopt.hardware.parent_death import signal_at_parents_death

__all__ = ["ObeyParent", "signals_held_back"]

_POLL_S = 1.0
_IGNORED = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_SIGNALS = (signal.SIGTERM, *_IGNORED)


class ObeyParent:
    """The first call in a child process; made in the thread that starts the child.

    Ctrl-C and a scheduler's SIGTERM, SIGUSR1 or SIGUSR2 reach the whole process group; the parent
    answers them and the child ignores them. Only SIGTERM from the parent itself ends the child, at
    once and with exit code 0, because that is how a parent ends it; a handler inherited from the
    parent would speak for the parent. When the parent dies by kill -9, so does the child, which
    otherwise would wait for work for ever.

    Start the child inside `signals_held_back`: then SIGTERM is blocked in all of its threads. On
    systems that do not tell who sent a signal (macOS), SIGTERM from anybody ends the child.
    """

    def __init__(self) -> None:
        self._parent = os.getpid()
        # The kernel takes the death of the thread that forked for the death of the parent.
        self._by_main_thread = threading.current_thread() is threading.main_thread()

    def __call__(self, *_: Any) -> None:
        """Set up this process; arguments such as the number of a loader worker are not used."""
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        _obey_sigterm(self._parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        if not (self._by_main_thread and signal_at_parents_death(signal.SIGKILL)):
            threading.Thread(target=_watch, args=(self._parent,), daemon=True).start()
        if os.getppid() != self._parent:  # it died before it could be watched
            os._exit(1)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Keep signals from children that are started in this block until they obey their parent.

    A child begins with the parent's handlers, which may raise the parent's exceptions. Signals to
    this process wait until the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_sigterm(parent: int) -> None:
    """End on the parent's SIGTERM; where the system tells the sender, on nobody else's."""
    if not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        return
    # A handler would not be told the sender. A blocked signal waits for the thread that asks for
    # it, and one that came before this call is judged, too.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_await_sigterm, args=(parent,), daemon=True).start()


def _await_sigterm(parent: int) -> None:
    # The sender is 0 when it lives in another container; that is not the parent either.
    while signal.sigwaitinfo((signal.SIGTERM,)).si_pid != parent:
        pass
    # 0, because PyTorch's parent takes a worker that died of a signal for a failed one.
    os._exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
