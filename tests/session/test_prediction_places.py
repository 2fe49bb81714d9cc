"""Where predictions go; writing them is tested with whole predictions (tests/test_predict*.py)."""

import numpy as np
import pytest

from gpuopt.errors import FaultError, InputError
from gpuopt.session.prediction_places import (
    place_of_submission,
    require_writable,
    write_predictions,
)

CONTEST = {"_target_": "gpuopt.data.ImageCsv", "test_csv": "sample.csv"}
FOLDER = {"_target_": "gpuopt.data.ImageFolder", "root": "raw"}


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path):
    require_writable(tmp_path / "predictions.csv")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"output=.* cannot be written \(No such file"):
        require_writable(tmp_path / "none" / "predictions.csv")
    with pytest.raises(InputError, match="cannot be written"):
        require_writable(tmp_path / ("a" * 300))


def test_only_a_contest_has_a_submission_and_it_takes_nobodys_place(tmp_path):
    output = tmp_path / "predictions.csv"
    assert place_of_submission(FOLDER, output, may_exist=False) is None
    bare = {**CONTEST, "test_csv": None}
    assert place_of_submission(bare, output, may_exist=False) is None
    place = place_of_submission(CONTEST, output, may_exist=False)
    assert place == tmp_path / "submission.csv"
    with pytest.raises(InputError, match=r"name it predictions\.csv"):
        place_of_submission(CONTEST, place, may_exist=False)
    place.touch()
    assert place_of_submission(CONTEST, output, may_exist=True) == place
    with pytest.raises(InputError, match="exists: move it away"):
        place_of_submission(CONTEST, output, may_exist=False)


def test_a_full_disk_says_how_to_go_on(tmp_path):
    class Predictions:
        targets = np.array([-1])

        def written(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(FaultError, match=rf"No space left.*resume={tmp_path} goes on"):
        write_predictions(
            Predictions(),
            tmp_path / "predictions.csv",
            ("a", "b"),
            submission=None,
            contest=None,
            is_written=False,
        )
