"""Draws documents so slowly that it can be hit in the middle; says every signal that it answers.

Started by `test_child_process.py`.
"""

import signal
import sys
import time
from pathlib import Path

from gpuopt.data import parallel_rows
from gpuopt.data.drawing import DocumentSet, folder

DOCUMENTS = DocumentSet(seed=0, train_count=150, test_count=50, size_px=128)


def stop(number, frame):
    print("stopped by", number, file=sys.stderr, flush=True)
    sys.exit(75)


def main(where: Path) -> None:
    draw_sample = folder.draw_sample
    folder.draw_sample = lambda *words: (time.sleep(0.02), draw_sample(*words))[1]
    parallel_rows.available_cpus = lambda: 2
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, stop)
    DOCUMENTS.draw(where)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
