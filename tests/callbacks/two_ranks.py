"""Two processes that train together, as torchrun would start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def end_of_two_ranks(module, folder):
    """Run a module as two ranks, with the folder as its argument, and see both end well."""
    port = _free_port()
    ranks = [_start(module, rank, port, folder) for rank in (0, 1)]
    try:
        codes = [process.wait(timeout=240) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert codes == [0, 0], "\n".join(p.read_text() for p in sorted(folder.glob("*.log")))


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _start(module, rank, port, folder):
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    names = {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    elastic = {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
    own = {key: str(value) for key, value in (places | names | elastic).items()}
    command = [sys.executable, "-m", module, str(folder)]
    with (folder / f"rank{rank}.log").open("w") as log:
        return subprocess.Popen(
            command, env={**os.environ, **own}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
