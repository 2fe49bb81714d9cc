"""Two processes that train together, as torchrun would start them."""

import contextlib
import socket

from tests.faults.commands import Command


@contextlib.contextmanager
def two_ranks(warm, module, folder, *words):
    """Run a module as two ranks, with the folder and words as its arguments."""
    port = _free_port()
    ranks = [_start(warm, module, rank, port, folder, words) for rank in (0, 1)]
    try:
        yield ranks
    finally:
        for command in ranks:
            command.give_up()


def end_of_two_ranks(warm, module, folder):
    """See both ranks end well."""
    with two_ranks(warm, module, folder) as ranks:
        ends = [command.end(limit_s=240) for command in ranks]
    assert [end.code for end in ends] == [0, 0], "\n".join(said_by(end) for end in ends)


def said_by(end):
    """What a rank has printed."""
    return end.stdout + end.stderr


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _start(warm, module, rank, port, folder, words):
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    names = {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    elastic = {"TORCHELASTIC_RUN_ID": "test"}
    own = {key: str(value) for key, value in (places | names | elastic).items()}
    return Command(module, str(folder), *words, cwd=folder, environment=own, warm=warm)
