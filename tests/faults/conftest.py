"""The warm process and what each fault test needs."""

import sys

import pytest

from tests.faults.commands import Command, Warm

# A small run with all kinds of randomness; saves every other step.
BUSY = (
    "model.drop_rate=0.2",
    "trainer.max_epochs=3",
    "callbacks.checkpoint.every_n_steps=2",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "faults":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def warm():
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    server = Warm()
    yield server
    server.close()


@pytest.fixture
def start_command(warm):
    """Start a command in a folder; none outlives the test."""
    started = []

    def start(cwd, *words, **options):
        command = Command(*words, cwd=cwd, warm=warm, **options)
        started.append(command)
        return command

    yield start
    for command in started:
        command.give_up()


@pytest.fixture
def start_train(start_command, tiny):
    """Start a small `gpuopt train` in a folder."""

    def start(cwd, *words, **options):
        return start_command(cwd, "gpuopt.train", *tiny, *words, **options)

    return start
