"""Files of out-of-fold predictions: what is written is read, damage is found, nothing twice."""

import numpy as np
import pytest

from gpuopt.report import write_rows_csv
from gpuopt.session.out_of_fold import pool, read_out_of_fold, write_pooled

HEADER = ["id", "fold", "target", "prediction", "p_cat", "p_p_dog"]


def written(path, rows, header=HEADER):
    write_rows_csv(path, header, rows)
    return path


def row(name, fold, target, prediction):
    return [name, fold, target, prediction, "0.25", "0.75"]


def test_what_is_written_is_read(tmp_path):
    names = ["a,\n.png", '"=1+1"', "b\udcff.png"]
    rows = [row(name, 1, "cat", "p_dog") for name in names]
    found = read_out_of_fold(written(tmp_path / "o.csv", rows))
    assert found.ids == names
    assert found.class_names == ["cat", "p_dog"]
    assert found.folds.tolist() == [1, 1, 1]
    assert (found.targets.tolist(), found.classes.tolist()) == ([0, 0, 0], [1, 1, 1])
    assert found.groups is None


def test_groups_have_a_column_of_their_own(tmp_path):
    header = ["id", "group", *HEADER[1:]]
    rows = [["a", "g1", 0, "cat", "cat", "1", "0"], ["b", "group", 0, "cat", "p_dog", "0", "1"]]
    found = read_out_of_fold(written(tmp_path / "o.csv", rows, header))
    assert found.groups == ["g1", "group"]
    assert found.classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "id,fold,target,prediction,p_a\n",
        "id,fold,target\na,0,x\n",
        "id,fold,target,prediction,p_a\nx,0,a,a,1\ny,0,a",
        "id,fold,target,prediction,p_a\nx,0,a,b,1\n",
        "id,fold,target,prediction,p_a\nx,zero,a,a,1\n",
        'id,fold,target,prediction,p_a\n"x,0,a,a,1\n',
    ],
)
def test_a_damaged_file_is_found(tmp_path, content):
    (tmp_path / "o.csv").write_text(content)
    with pytest.raises(ValueError, match=r"no|is|has|not|invalid"):
        read_out_of_fold(tmp_path / "o.csv")


def test_folds_are_pooled_once_each(tmp_path):
    parts = [
        read_out_of_fold(written(tmp_path / f"{fold}.csv", [row(f"i{fold}", fold, "cat", "cat")]))
        for fold in (2, 0)
    ]
    pooled = pool(parts)
    assert (pooled.ids, pooled.folds.tolist()) == (["i2", "i0"], [2, 0])
    write_pooled(tmp_path, pooled)
    again = read_out_of_fold(tmp_path / "out_of_fold.csv")
    assert again.ids == pooled.ids
    assert np.array_equal(again.targets, pooled.targets)
    with pytest.raises(ValueError, match="validated on in two folds"):
        pool([parts[0], parts[0]])
    other = written(tmp_path / "x.csv", [row("z", 1, "cat", "cat")], [*HEADER[:4], "p_cat", "p_x"])
    with pytest.raises(ValueError, match="different classes"):
        pool([parts[0], read_out_of_fold(other)])
