"""How a process that was started to measure answers the one that waits: in lines of JSON."""

import contextlib
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpuopt.errors import GpuoptError, one_line

__all__ = ["answering"]


@contextlib.contextmanager
def answering() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Keep stdout for answers, and end the process; what libraries print goes to stderr.

    Yields:
        A function that sends one answer. An error that ends the block is sent as the last one.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)

        def send(message: Mapping[str, Any]) -> None:
            stream.write(json.dumps(message) + "\n")
            stream.flush()

        try:
            yield send
        except GpuoptError as error:
            send({"error": {"kind": type(error).__name__, "message": str(error)}})
        except Exception as error:
            traceback.print_exc()
            words = one_line(f"internal error: {type(error).__name__}: {error}")
            send({"error": {"kind": "GpuoptError", "message": words}})
        os._exit(0)  # nothing is left to be done, and a thread waits for stdin
