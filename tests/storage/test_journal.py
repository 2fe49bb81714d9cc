import subprocess
import sys

import pytest

from gpuopt.errors import InputError
from gpuopt.storage import Journal
from gpuopt.storage.journal import _framed

RECORDS = [b"one", b"", b"three" * 1000]


def written(path):
    with Journal(path, {"begun": "with"}) as journal:
        for record in RECORDS:
            journal.append(record)
    return path


def test_records_come_back_in_order_and_more_can_be_added(tmp_path):
    path = written(tmp_path / "j")
    with Journal(path) as journal:
        assert journal.header == {"begun": "with"}
        assert journal.count == 3
        assert list(journal.records()) == RECORDS
        journal.append(b"four")
        assert list(journal.records()) == [*RECORDS, b"four"]
    with Journal(path) as journal:
        assert journal.count == 4


def test_wherever_it_is_torn_the_whole_records_before_are_kept(tmp_path):
    path = written(tmp_path / "j")
    content = path.read_bytes()
    begin = content.index(b"with") + len('with"}')
    ends = [begin + 12 + 3, begin + 24 + 3, len(content)]
    for size in {*range(begin, begin + 45), len(content) - 1, len(content)}:
        path.write_bytes(content[:size])
        with Journal(path) as journal:
            whole = sum(size >= end for end in ends)
            assert journal.count == whole
            journal.append(b"again")
            assert list(journal.records()) == [*RECORDS[:whole], b"again"]


def test_a_flipped_byte_or_a_lying_size_ends_the_journal_there(tmp_path):
    path = written(tmp_path / "j")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with Journal(path) as journal:
        assert list(journal.records()) == RECORDS[:2]
    path.write_bytes(bytes(content) + b"\xff" * 100)  # a record of 2**64 - 1 bytes
    with Journal(path) as journal:
        assert journal.count == 2


MAGIC = b"gpuopt journal 1\n"
DAMAGED = MAGIC + _framed(b'{"begun": 1}')[:-1] + b"?"
LYING = MAGIC + b"\xff" * 100  # a header of 2**64 - 1 bytes


@pytest.mark.parametrize("content", [b"id,target\n", b"gpuopt journey", DAMAGED, LYING])
def test_another_file_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(InputError, match="delete it to begin anew"):
        Journal(path)
    assert path.read_bytes() == content
    with pytest.raises(FileExistsError):
        Journal(path, {})


def test_a_file_that_ends_before_a_whole_header_was_not_begun(tmp_path):
    path = tmp_path / "j"
    Journal(path, {"begun": "with"}).close()
    content = path.read_bytes()
    assert Journal.is_begun(path)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert not Journal.is_begun(path)
        with Journal(path, {"begun": "anew"}) as journal:
            journal.append(b"one")
        with Journal(path) as journal:
            assert (journal.header, journal.count) == ({"begun": "anew"}, 1)


def test_a_header_that_a_full_disk_refuses_leaves_no_file(tmp_path, monkeypatch):
    def full(journal, content):
        journal._stream.write(content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "_put", full)
    with pytest.raises(OSError, match="No space"):
        Journal(tmp_path / "j", {})
    assert not list(tmp_path.iterdir())


def test_a_header_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "j"
    Journal(path, {}).close()
    content = path.read_bytes()
    path.write_bytes(content[: len(b"gpuopt journal 1\n")] + _framed(b"[1]"))
    with pytest.raises(InputError, match="damaged"):
        Journal(path)


def test_only_one_process_at_a_time(tmp_path):
    path = tmp_path / "j"
    code = (
        "import sys, pathlib; from gpuopt.storage import Journal\n"
        "try: Journal(pathlib.Path(sys.argv[1]))\n"
        "except Exception as error: print(error)"
    )
    with Journal(path, {}):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
    assert "is being written by another process" in done.stdout
    with Journal(path):
        pass


def test_what_a_full_disk_refuses_leaves_no_half_record(tmp_path):
    path = written(tmp_path / "j")

    class Full:
        """Writes a part, as a disk does that fills up, and then nothing."""

        def __init__(self, stream):
            self.stream, self.calls = stream, 0

        def write(self, content):
            self.calls += 1
            if self.calls > 1:
                raise OSError(28, "No space left on device")
            return self.stream.write(content[:5])

        def __getattr__(self, name):
            return getattr(self.stream, name)

    with Journal(path) as journal:
        whole, journal._stream = journal._stream, Full(journal._stream)
        with pytest.raises(OSError, match="No space"):
            journal.append(b"lost record")
        journal._stream = whole
        assert journal.count == 3
        journal.append(b"kept")
        assert list(journal.records()) == [*RECORDS, b"kept"]
