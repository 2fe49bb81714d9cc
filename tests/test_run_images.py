"""Where engines find real images. What opens them is tested by tests/test_export.py."""

import pytest
import yaml

from gpuopt.errors import InputError
from gpuopt.run_images import given_data, open_images_of, proof_sources

FOLDER = {"_target_": "gpuopt.data.ImageFolder", "root": None}
DIGITS = {"_target_": "gpuopt.data.Digits", "quickstart_image_size": 32}


def stored(folder, node):
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": node, "seed": 3}))


def test_a_folder_without_a_name_names_nothing():
    assert given_data(FOLDER) is None
    assert given_data({**FOLDER, "root": "raw"}) == {**FOLDER, "root": "raw"}
    assert given_data(DIGITS) == DIGITS


def test_what_is_named_comes_before_the_runs_own(tmp_path):
    assert proof_sources(FOLDER, tmp_path / "best.ckpt", 32, None) == []
    stored(tmp_path, DIGITS)
    (own,) = proof_sources(FOLDER, tmp_path, 32, str(tmp_path))
    assert own().seed == 3
    given, _ = proof_sources(DIGITS, tmp_path, 32, str(tmp_path))
    assert given().seed == 0
    assert len(proof_sources({**FOLDER, "root": "raw"}, tmp_path, 32, None)) == 3


def test_data_that_lie_in_no_folder_have_not_moved(tmp_path):
    stored(tmp_path, DIGITS)
    moved, *_ = proof_sources({**FOLDER, "root": "raw"}, tmp_path, 32, None)
    with pytest.raises(InputError, match="lie in no folder"):
        moved()


def test_a_folder_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"data\.root"):
        open_images_of({**FOLDER, "root": str(tmp_path / "none")}, 32, None)
