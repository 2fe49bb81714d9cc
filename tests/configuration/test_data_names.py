import pytest

from gpuopt.configuration.data_names import kind_of_data, name_of_data


@pytest.mark.parametrize(
    ("root", "name"),
    [(None, "imagefolder"), ("사진 (1)/개와 고양이/", "개와 고양이"), (".", "home"), ("~", "user")],
)
def test_own_images_are_named_by_their_folder(root, name, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    data = {"_target_": "gpuopt.data.ImageFolder", "root": root}
    assert name_of_data(data) == name
    assert kind_of_data(data) == "imagefolder"


def test_data_of_gpuopt_are_named_by_their_kind():
    assert name_of_data({"_target_": "gpuopt.data.Digits"}) == "digits"
