import errno

import pytest

from gpuopt.storage import atomic_write, create_text, write_json, write_text


def test_content_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_keeps_the_old_content_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half():
        with atomic_write(path) as stream:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_write(path, "w") as stream:
        stream.write("new")
        stream.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_temporary_file_lies_beside_the_target(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "does_not_exist"))
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_results_are_readable_by_others(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


@pytest.fixture(params=["hard links", "no hard links"])
def _file_system(request, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, "no hard links here")

    if request.param == "no hard links":
        monkeypatch.setattr("os.link", refuse)


@pytest.mark.usefixtures("_file_system")
def test_a_new_file_takes_the_place_of_none(tmp_path):
    path = tmp_path / "a.txt"
    create_text(path, "first")
    with pytest.raises(FileExistsError):
        create_text(path, "second")
    assert path.read_text() == "first"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_new_file_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="full"):
        create_text(tmp_path / "a.txt", "content")
    assert list(tmp_path.iterdir()) == []
