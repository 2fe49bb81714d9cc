import pytest

from gpuopt.config import compose_settings
from gpuopt.schema import to_train_config


@pytest.mark.parametrize(
    ("words", "name", "kind"),
    [
        (["data=digits"], "digits", "digits"),
        (["data=image_folder", "data.root=사진 (1)/개와 고양이/"], "개와 고양이", "imagefolder"),
        (["data=image_folder", "data.root=."], None, "imagefolder"),
    ],
)
def test_own_images_are_named_by_their_folder(words, name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = to_train_config(compose_settings("train", words))
    assert config.data_name == (name or tmp_path.name)
    assert config.data_kind == kind
