"""What each fault test needs."""

import pytest

# A small run with all kinds of randomness, 4 steps an epoch; saves every other step.
BUSY = (
    "data.test_ratio=0.7",
    "model.drop_rate=0.2",
    "trainer.max_epochs=3",
    "callbacks.checkpoint.every_n_steps=2",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "faults":
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def start_train(start_command, tiny):
    """Start a small `gpuopt train` in a folder."""

    def start(cwd, *words, **options):
        return start_command(cwd, "gpuopt.train", *tiny, *words, **options)

    return start
