import numpy as np
import pytest

from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.session.part_files import PartFiles, going_on_later
from gpuopt.storage import part_file
from gpuopt.tta import PredictionBlock

IDENTITY = {"precision": "fp32", "images": "abc", "weights": ["x", "y"]}


@pytest.fixture
def parts(tmp_path):
    """Opens the parts of an output of three passes of two batches; closed after the test."""
    opened = []

    def open_parts(*, resumes=False, **changed):
        found = PartFiles(
            tmp_path / "p.csv", {**IDENTITY, **changed}, passes=3, batches=2, resumes=resumes
        )
        opened.append(found)
        return found

    yield open_parts
    for each in opened:
        each.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def add(parts, batches=1):
    for _ in range(batches):
        ids = np.arange(4)
        parts.file.append(PredictionBlock(ids, ids, np.zeros((4, 2), np.float32), 4))


def test_each_pass_has_a_file_and_needs_the_one_before(parts, tmp_path):
    mine = parts()
    add(mine, 2)
    assert mine.is_complete
    assert not mine.is_last
    mine.next_pass()
    assert names(tmp_path) == ["p.csv.part", "p.csv.part2"]
    assert mine.earlier.batches == 2
    add(mine, 2)
    mine.next_pass()
    assert names(tmp_path) == ["p.csv.part2", "p.csv.part3"]
    assert mine.is_last
    mine.remove()
    assert names(tmp_path) == []


def test_what_is_there_is_gone_on_with(parts, tmp_path):
    mine = parts()
    add(mine)
    mine.close()
    mine = parts(resumes=True)
    assert (mine.number, mine.file.batches, mine.samples, mine.earlier) == (0, 1, 4, None)
    add(mine)
    mine.next_pass()
    mine.close()
    mine = parts(resumes=True)
    assert (mine.number, mine.file.batches, mine.earlier.batches) == (1, 0, 2)


def test_nothing_done_leaves_nothing(parts, tmp_path):
    parts().close()
    assert names(tmp_path) == []
    parts(resumes=True).close()
    assert names(tmp_path) == []


def test_what_is_there_is_not_overwritten(parts, tmp_path):
    mine = parts()
    add(mine)
    mine.close()
    with pytest.raises(InputError, match=r"p\.csv\.part is of a prediction that was cut short"):
        parts()
    assert parts(resumes=True).file.batches == 1


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"precision": "bf16"}, r"precision: fp32 -> bf16"),
        ({"images": "abd"}, r"other images, or other names, sizes or times of their files"),
        ({"weights": ["x"], "precision": "bf16"}, r"precision: fp32 -> bf16; other weights"),
        ({"code": "0123"}, r"another version of gpuopt"),
        ({"engine": "onnx"}, r"engine: None -> onnx"),
    ],
)
def test_another_identity_is_refused_with_the_difference(parts, changed, text):
    mine = parts()
    add(mine)
    mine.close()
    with pytest.raises(InputError, match=rf"was begun otherwise \({text}\): give the same"):
        parts(resumes=True, **changed)
    assert parts(resumes=True).file.batches == 1


@pytest.mark.parametrize("left", [0, 1])
def test_a_second_pass_without_the_whole_first_is_refused(parts, tmp_path, left):
    first = part_file(tmp_path / "p.csv")
    mine = parts()
    add(mine)
    short = first.read_bytes()
    add(mine)
    mine.next_pass()
    add(mine)
    mine.close()
    first.unlink()
    if left:
        first.write_bytes(short)
    with pytest.raises(InputError, match=r"p\.csv\.part, which .*part2 goes on from, is not whole"):
        parts(resumes=True)


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_no_pass_is_lost_when_the_next_one_cannot_begin(parts, tmp_path, monkeypatch):
    mine = parts()
    add(mine, 2)
    mine.next_pass()
    add(mine, 2)
    with monkeypatch.context() as patch:
        patch.setattr("gpuopt.session.part_files.PredictionFile", full_disk)
        with pytest.raises(FaultError, match=r"p\.csv\.part3 cannot be written \(No space.*free"):
            mine.next_pass()
    assert names(tmp_path) == ["p.csv.part", "p.csv.part2"]
    mine.close()
    mine = parts(resumes=True)
    assert (mine.number, mine.is_complete) == (1, True)
    mine.next_pass()
    assert (mine.number, mine.earlier.batches) == (2, 2)
    assert names(tmp_path) == ["p.csv.part2", "p.csv.part3"]


@pytest.mark.parametrize("torn", [False, True])
def test_killed_between_two_passes_it_goes_on_from_the_complete_one(parts, tmp_path, torn):
    mine = parts()
    add(mine, 2)
    mine.next_pass()
    add(mine, 2)
    if torn:  # in the middle of the header of the next one
        mine.close()
        (tmp_path / "p.csv.part3").write_bytes(b"gpuopt jour")
    else:  # before the first one was removed
        first = part_file(tmp_path / "p.csv").read_bytes()
        mine.next_pass()
        mine.close()
        part_file(tmp_path / "p.csv").write_bytes(first)
    mine = parts(resumes=True)
    if torn:
        assert (mine.number, mine.is_complete) == (1, True)
        mine.next_pass()
    assert (mine.number, mine.file.batches, mine.earlier.batches) == (2, 0, 2)
    assert names(tmp_path) == ["p.csv.part2", "p.csv.part3"]


def test_a_complete_pass_needs_no_earlier_one(parts, tmp_path):
    mine = parts()
    add(mine, 2)
    mine.next_pass()
    add(mine, 2)
    mine.close()
    part_file(tmp_path / "p.csv").unlink()
    mine = parts(resumes=True)
    assert (mine.number, mine.is_complete, mine.earlier) == (1, True, None)


def test_a_file_that_was_not_begun_is_nothing_to_go_on_with(parts, tmp_path):
    part_file(tmp_path / "p.csv").write_bytes(b"")
    add(parts())


def test_a_disk_that_is_full_at_the_beginning_is_a_fault(parts, monkeypatch):
    monkeypatch.setattr("gpuopt.session.part_files.PredictionFile", full_disk)
    with pytest.raises(FaultError, match=r"p\.csv\.part cannot be written \(No space"):
        parts()


def test_two_processes_do_not_share_the_files(parts):
    add(parts())
    with pytest.raises(InputError, match="being written by another process"):
        parts(resumes=True)


def stopped(mine, tmp_path, error):
    with going_on_later(mine, tmp_path / "p.csv", 8):
        raise error


def test_being_stopped_names_how_to_go_on(parts, tmp_path):
    how = f"the same command with resume={tmp_path} goes on"
    mine = parts()
    add(mine)
    with pytest.raises(PreemptedError, match=f"stopped by SIGTERM after 4 of 8 images: {how}"):
        stopped(mine, tmp_path, KeyboardInterrupt("SIGTERM"))
    mine = parts(resumes=True)
    add(mine)
    mine.next_pass()
    with pytest.raises(PreemptedError, match=r"Ctrl-C after 0 of 8 images of pass 2: the same"):
        stopped(mine, tmp_path, KeyboardInterrupt())
    mine = parts(resumes=True)
    with pytest.raises(FaultError, match=f"full; 0 of 8 images of pass 2 are kept: {how}"):
        stopped(mine, tmp_path, FaultError("full"))
    with pytest.raises(ZeroDivisionError):
        stopped(parts(resumes=True), tmp_path, ZeroDivisionError())
    assert parts(resumes=True).number == 1  # closed, each time


def test_before_anything_is_done_there_is_nothing_to_go_on_with(parts, tmp_path):
    for error in (KeyboardInterrupt("SIGTERM"), FaultError("full"), InputError("bad")):
        with pytest.raises(type(error), match=str(error)):
            stopped(parts(), tmp_path, error)
        assert names(tmp_path) == []
