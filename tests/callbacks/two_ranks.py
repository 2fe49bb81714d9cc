"""Two processes that train together, as torchrun would start them."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def two_ranks(module, folder, *words):
    """Run a module as two ranks, with the folder and words as its arguments."""
    port = _free_port()
    ranks = [_start(module, rank, port, folder, words) for rank in (0, 1)]
    try:
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.wait()


def end_of_two_ranks(module, folder):
    """See both ranks end well."""
    with two_ranks(module, folder) as ranks:
        codes = [process.wait(timeout=240) for process in ranks]
    assert codes == [0, 0], said_by(folder)


def said_by(folder):
    """What both ranks have printed."""
    return "\n".join(path.read_text("utf-8") for path in sorted(folder.glob("rank*.log")))


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _start(module, rank, port, folder, words):
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    names = {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    elastic = {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
    own = {key: str(value) for key, value in (places | names | elastic).items()}
    command = [sys.executable, "-m", module, str(folder), *words]
    with (folder / f"rank{rank}.log").open("w") as log:
        return subprocess.Popen(
            command, env={**os.environ, **own}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
