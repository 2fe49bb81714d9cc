"""The wheel carries the configuration and works from any folder, without the checkout."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment that holds the wheel, and sees the dependencies but not the checkout."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel],
        check=True,
        capture_output=True,
    )
    (site,) = folder.glob("lib/python*/site-packages")
    # A path file in another environment's folder is not followed, so the editable install of the
    # checkout stays out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder / "bin"


def test_it_holds_the_code_and_the_configuration_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shipped = {name for name in names if name.startswith("gpuopt/conf/")}
    own = {f"gpuopt/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert shipped == own
    page = ROOT / "gpuopt/telemetry/web/page"
    assert {f"gpuopt/telemetry/web/page/{p.name}" for p in page.iterdir()} <= set(names)
    assert not [name for name in names if not name.startswith(("gpuopt/", "gpuopt-"))]


def test_it_trains_from_another_folder(installed, tmp_path, tiny):
    found = subprocess.run(
        [installed / "python", "-c", "import gpuopt.schema as s; print(s.CONF_DIR)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip().startswith(str(installed.parent))
    done = subprocess.run(
        [installed / "gpuopt", "train", *tiny, "trainer.max_steps=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/train").is_dir()
