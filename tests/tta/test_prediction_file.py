import numpy as np
import pytest

from gpuopt.errors import FaultError, InputError
from gpuopt.storage import Journal
from gpuopt.tta import PredictionBlock, PredictionFile


def block(first, samples, classes=3, chunk_size=8):
    generator = np.random.default_rng(first)
    return PredictionBlock(
        np.arange(first, first + samples),
        generator.integers(-1, classes, samples),
        generator.random((samples, classes), np.float32),
        chunk_size,
    )


def same(left, right):
    return (
        all(
            np.array_equal(getattr(left, name), getattr(right, name))
            and getattr(left, name).dtype == getattr(right, name).dtype
            for name in ("ids", "targets", "probabilities")
        )
        and left.chunk_size == right.chunk_size
    )


def test_blocks_come_back_to_the_bit(tmp_path):
    blocks = [block(0, 4), block(4, 4), block(8, 1, chunk_size=4)]
    file = PredictionFile(tmp_path / "p", {"of": "mine"})
    assert file.chunk_size is None
    for each in blocks:
        file.append(each)
    assert (file.batches, file.samples, file.chunk_size) == (3, 9, 4)
    assert all(map(same, file.blocks(), blocks))
    assert same(next(file.blocks(first=2)), blocks[2])
    file.close()
    again = PredictionFile(tmp_path / "p")
    assert again.header == {"of": "mine"}
    assert (again.batches, again.samples, again.chunk_size) == (3, 9, 4)
    assert all(map(same, again.blocks(), blocks))
    again.close()


def test_a_block_without_samples_counts_as_a_batch(tmp_path):
    file = PredictionFile(tmp_path / "p", {})
    file.append(block(0, 2))
    nothing = np.empty(0, np.int64)
    file.append(PredictionBlock(nothing, nothing, np.empty((0, 0), np.float32), 1))
    assert (file.batches, file.samples, file.chunk_size) == (2, 2, 8)
    assert [len(each.ids) for each in file.blocks()] == [2, 0]
    file.close()


@pytest.mark.parametrize("record", [b"", b"x" * 24, b"\0" * 24, (2).to_bytes(8, "little") * 3])
def test_a_record_that_is_no_block_is_refused(tmp_path, record):
    with Journal(tmp_path / "p", {}) as journal:
        journal.append(record)
    with pytest.raises(InputError, match="damaged: delete it to begin anew"):
        PredictionFile(tmp_path / "p")


def test_a_full_disk_is_a_fault_that_keeps_what_was_there(tmp_path, monkeypatch):
    file = PredictionFile(tmp_path / "p", {})
    file.append(block(0, 2))

    def full(journal, payload):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        with pytest.raises(FaultError, match=r"No space left.*free space"):
            file.append(block(2, 2))
    assert file.batches == 1
    file.append(block(2, 2))
    assert all(map(same, file.blocks(), [block(0, 2), block(2, 2)]))
    file.close()
