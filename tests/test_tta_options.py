import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gpuopt.schema import CONF_DIR, register
from gpuopt.tta_options import compose_policy


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "conf/tta").mkdir(parents=True)
    (tmp_path / "conf/.gpuopt").touch()
    monkeypatch.chdir(tmp_path)
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield tmp_path


def test_a_policy_is_called_as_its_option_whatever_the_file_says(home):
    views = "views: [{hflip: true}]\n"
    (home / "conf/tta/one.yaml").write_text(f"name: essential\n{views}")
    (home / "conf/tta/other.yaml").write_text(views)
    policies = [compose_policy(name) for name in ("one", "other", "essential")]
    assert [policy.name for policy in policies] == ["one", "other", "essential"]
    assert [len(policy.views) for policy in policies] == [1, 1, 5]
