"""Bad data and models given to the real command: what only opening them can show."""

import pytest
from PIL import Image

from tests.faults.commands import Command

pytestmark = pytest.mark.slow

FOLDER, CSV = "data=image_folder", "data=image_csv data.train_dir=photos"
# What is typed, and what the line must say.
CASES = {
    f"{FOLDER} data.root=empty": "empty holds no images: give the folder with one folder per class",
    f"{FOLDER} data.root=photos/cat": "holds images but no class folders: put each class into",
    f"{FOLDER} data.root=single": "all training images are of class cat: a classifier needs",
    f"{FOLDER} data.root=hollow": "class folder hollow/dog holds no images: add some or remove it",
    f"{FOLDER} data.root=lonely": "class dog has a single training image: add another",
    f"{FOLDER} data.root=broken": "cannot be read (broken/",
    f"{FOLDER} data.root=photos folds=20": "too few for 20 folds: take fewer folds, or",
    f"{FOLDER} data.root=photos data.test_root=photos": "data.test_root is the training folder",
    f"{CSV} data.train_csv=good.csv data.target_column=label": "good.csv has no column 'label'",
    f"{CSV} data.train_csv=good.csv data.id_column=file": "good.csv has no column 'file' (known: ",
    f"{CSV} data.train_csv=absent.csv": "1 of 3 files of absent.csv are not in photos (cat/99.png)",
    f"{CSV} data.train_csv=empty.csv": "empty.csv has no data rows: it needs a header and a row",
    f"{CSV} data.train_csv=header.csv": "header.csv has no data rows",
    f"{CSV} data.train_csv=twice.csv": "'cat/0.png' comes twice in column 'id'",
    f"{CSV} data.train_csv=ragged.csv": "ragged.csv, data row 2: 1 values for 2 columns",
    f"{CSV} data.train_csv=out.csv": "names '../good.csv', which is no file inside photos",
    f"{CSV} data.train_csv=binary.csv": "binary.csv cannot be read as a CSV in UTF-8",
    f"{CSV} data.train_csv=empty": "empty cannot be read as a CSV in UTF-8: [Errno 21]",
    "data=digits model.name=resnet9999": "resnet9999",
    "data=digits compile.mode=default compile.backend=nope": "backend=nope: no such backend",
}
CSVS = {
    "good": "id,target\ncat/0.png,1\ncat/1.png,1\ndog/0.png,2\n",
    "absent": "id,target\ncat/0.png,1\ncat/99.png,1\ndog/0.png,2\n",
    "empty": "",
    "header": "id,target\n",
    "twice": "id,target\ncat/0.png,1\ncat/0.png,2\n",
    "ragged": "id,target\ncat/0.png,1\ncat/1.png\n",
    "out": "id,target\n../good.csv,1\ncat/0.png,2\n",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A user's folder of good and bad data."""
    desk = tmp_path_factory.mktemp("faults") / "desk"
    counts = {
        "photos": {"cat": 2, "dog": 2},
        "single": {"cat": 2},
        "hollow": {"cat": 2, "dog": 0},
        "lonely": {"cat": 2, "dog": 1},
    }
    for folder, classes in counts.items():
        for name, count in classes.items():
            (desk / folder / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (8, 8), (90 * number, 0, 0))
                image.save(desk / folder / name / f"{number}.png")
    for name in ("cat", "dog"):
        (desk / "broken" / name).mkdir(parents=True)
        (desk / "broken" / name / "1.jpg").write_text("<html>404</html>")
    (desk / "empty").mkdir()
    for name, text in CSVS.items():
        (desk / f"{name}.csv").write_text(text)
    (desk / "binary.csv").write_bytes(b"\xff\xfe\x00id")
    return desk


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def ends(desk, tiny, warm):
    """The exit code and stderr of each case, and whether all of them left the folder as it was."""
    usual = [word for word in tiny if not word.startswith(("data=", "model.name="))]
    usual.append(f"cache_dir={desk.parent / 'cache'}")
    before, found = contents(desk), {}
    for case in CASES:
        name = [] if "model.name" in case else ["model.name=test_vit"]
        words = (*usual, *name, *case.split())
        end = Command("gpuopt.train", *words, cwd=desk, warm=warm).end()
        found[case] = end.code, end.stderr
    return found, (before, contents(desk))


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_a_last_line_that_names_cause_and_remedy(ends, case):
    code, stderr = ends[0][case]
    assert code == 2, stderr
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("gpuopt train: ")
    assert CASES[case] in last
    assert last.isprintable()


def test_nothing_is_left_of_the_refused_runs(ends):
    before, after = ends[1]
    assert after == before
