import pytest

from gpuopt.storage import AnswerCache

QUESTION = {"model": "a", "views": [["rotate", 90.0]]}


@pytest.fixture
def cache(tmp_path):
    return AnswerCache(tmp_path / "new" / "folder")


def test_an_answer_comes_back_to_the_same_question_only(cache):
    assert cache.read(QUESTION) is None
    cache.write(QUESTION, b"\0answer\n")
    assert cache.read(dict(reversed(QUESTION.items()))) == b"\0answer\n"
    assert cache.read({**QUESTION, "model": "b"}) is None
    cache.write(QUESTION, b"other")
    assert cache.read(QUESTION) == b"other"
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_no_answer(cache, damage):
    cache.write(QUESTION, b"answer")
    (file,) = cache.folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content) if damage is None else damage)
    assert cache.read(QUESTION) is None
    cache.write(QUESTION, b"answer")
    assert cache.read(QUESTION) == b"answer"


def test_a_file_under_anothers_name_is_no_answer(cache):
    cache.write(QUESTION, b"answer")
    (file,) = cache.folder.iterdir()
    other = {"model": "b"}
    cache.write(other, b"x")
    (target,) = set(cache.folder.iterdir()) - {file}
    file.replace(target)
    assert cache.read(other) is None


def test_a_folder_that_cannot_be_made_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    cache = AnswerCache(tmp_path / "file" / "folder")
    cache.write(QUESTION, b"answer")
    assert cache.read(QUESTION) is None
