import csv

import numpy as np
import pytest

from gpuopt.errors import InputError
from gpuopt.report import stream_predictions_csv, write_contest_csv, write_predictions_csv

NAMES = ["cat", '=HYPERLINK("x")', '한글, "quoted"\nline']


def read(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.reader(stream))


def probabilities(rows):
    values = np.random.default_rng(0).random((rows, 3)).astype(np.float32)
    return values / values.sum(1, keepdims=True)


def test_every_name_and_id_comes_back_exactly(tmp_path):
    ids = ["=1+1.jpg", "a,b.png", 'q"uote', "new\nline", "return\rit", "\udc80.jpg", "한글.png", ""]
    shares = probabilities(len(ids))
    path = tmp_path / "predictions.csv"
    write_predictions_csv(path, ids, shares, NAMES, targets=[0, 1, 2, -1, 0, 1, 2, -1])
    header, *rows = read(path)
    assert header == ["id", "target", "prediction", "confidence", *(f"p_{name}" for name in NAMES)]
    assert [row[0] for row in rows] == ids
    assert [row[1] for row in rows] == [*NAMES, "", *NAMES, ""]
    assert [row[2] for row in rows] == [NAMES[index] for index in shares.argmax(1)]
    np.testing.assert_allclose([float(row[3]) for row in rows], shares.max(1), rtol=1e-5)
    np.testing.assert_allclose(np.array([row[4:] for row in rows], float), shares, rtol=1e-5)


def test_rows_that_come_one_by_one_make_the_same_file(tmp_path):
    shares, taken = probabilities(3), []

    def rows():
        for number, row in enumerate(shares):
            taken.append(number)
            yield "abc"[number], number - 1, row

    stream_predictions_csv(tmp_path / "s.csv", rows(), NAMES)
    write_predictions_csv(tmp_path / "w.csv", list("abc"), shares, NAMES, [-1, 0, 1])
    assert taken == [0, 1, 2]
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "w.csv").read_bytes()


def test_without_targets_their_cells_are_empty(tmp_path):
    write_predictions_csv(tmp_path / "p.csv", ["a"], probabilities(1), NAMES)
    assert read(tmp_path / "p.csv")[1][1] == ""


def test_the_contest_shape_is_two_columns_with_unix_line_ends(tmp_path):
    write_contest_csv(tmp_path / "s.csv", ["0a.jpg", "1b.jpg"], [3, "cat"])
    assert (tmp_path / "s.csv").read_bytes() == b"id,target\n0a.jpg,3\n1b.jpg,cat\n"
    write_contest_csv(tmp_path / "s.csv", ["0a.jpg"], [3], columns=("image", "kind"))
    assert (tmp_path / "s.csv").read_bytes() == b"image,kind\n0a.jpg,3\n"


@pytest.mark.parametrize(
    ("ids", "shares", "targets"),
    [
        (["a"], probabilities(2), None),
        (["a", "b"], probabilities(2)[:, :2], None),
        (["a", "b"], probabilities(2), [0]),
        (["a", "b"], probabilities(2), [0, 3]),
        (["a", "b"], probabilities(2), [0, -2]),
    ],
)
def test_lengths_that_do_not_agree_are_refused_and_nothing_is_written(
    tmp_path, ids, shares, targets
):
    with pytest.raises(InputError):
        write_predictions_csv(tmp_path / "p.csv", ids, shares, NAMES, targets)
    with pytest.raises(InputError):
        write_contest_csv(tmp_path / "c.csv", ["a"], [])
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_keeps_the_old_file(tmp_path):
    path = tmp_path / "p.csv"
    write_predictions_csv(path, ["a"], probabilities(1), NAMES)
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_predictions_csv(path, ["a", "\ud800"], probabilities(2), NAMES)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.csv"]
