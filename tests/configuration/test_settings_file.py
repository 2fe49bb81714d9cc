import pytest

from gpuopt.configuration.settings_file import SettingsFile
from gpuopt.errors import InputError

MARKER = ".gpuopt"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The shipped settings; the work goes on in an empty folder beside them."""
    folder, work = tmp_path / "shipped", tmp_path / "work"
    for group in ("tta", "mode"):
        (folder / group).mkdir(parents=True)
        (folder / group / f"plain_{group}.yaml").write_text("")
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


def place(shipped, group, name, given=None):
    return SettingsFile.place(group, name, shipped=shipped, marker=MARKER, given=given)


def test_names_are_taken_group_by_group(shipped, tmp_path):
    with pytest.raises(InputError, match=r"save_config=plain_tta: .*plain_tta\.yaml exists"):
        place(shipped, "tta", "plain_tta")
    file = place(shipped, "tta", "plain_mode")
    file.create("name: mine\n")
    assert (tmp_path / "work/conf/tta/plain_mode.yaml").read_text() == "name: mine\n"
    assert (tmp_path / "work/conf" / MARKER).is_file()
    with pytest.raises(InputError, match="exists and is not changed"):
        file.create("name: other\n")
    assert file.path.read_text() == "name: mine\n"


def test_the_message_says_what_takes_the_name(shipped):
    with pytest.raises(InputError, match="which tta=NAME then takes"):
        place(shipped, "tta", "null")
