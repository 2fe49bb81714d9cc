import pytest

from gpuopt.data.csv_table import read_csv
from gpuopt.errors import InputError


def table(tmp_path, text, encoding="utf-8"):
    file = tmp_path / "train.csv"
    file.write_bytes(text.encode(encoding))
    return read_csv(file, "data.train_csv")


def test_columns_are_read_without_blanks(tmp_path):
    found = table(tmp_path, 'id, target\n"a,b.jpg", 1 \n\nc.jpg,2\n')
    assert found.names == ["id", "target"]
    assert found.column("id") == ["a,b.jpg", "c.jpg"]
    assert found.filled("target") == ["1", "2"]
    assert found.unique("id") == ["a,b.jpg", "c.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_with_and_without_mark(tmp_path, encoding):
    assert table(tmp_path, "id,target\nü.jpg,1\n", encoding).column("id") == ["ü.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no data rows"),
        ("id,target\n", "no data rows"),
        ("id,target\na,1\nb\n", "data row 2: 1 values for 2 columns"),
        ('id,target\n"a,1\n', "cannot be read as a CSV"),
        ("id,target\na\0b,1,2,3\n", "data row 1: 4 values"),
    ],
)
def test_faults_of_the_file(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        table(tmp_path, text)
    assert "train.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_encodings_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="UTF-8"):
        table(tmp_path, "id,target\nü.jpg,1\n", "utf-16")
    with pytest.raises(InputError, match=r"there is no file .*: set data\.train_csv"):
        read_csv(tmp_path / "none.csv", "data.train_csv")
    with pytest.raises(InputError, match="cannot be read as a CSV"):
        read_csv(tmp_path, "data.train_csv")


def test_faults_of_columns(tmp_path):
    found = table(tmp_path, "image_id,label\na,x\nb,\na,y\n")
    with pytest.raises(InputError, match=r"no column 'labels' \(nearest: label\)"):
        found.column("labels")
    with pytest.raises(InputError, match="data row 2: column 'label' is empty"):
        found.filled("label")
    with pytest.raises(InputError, match="data rows 1 and 3: 'a' comes twice"):
        found.unique("image_id")
