import sys

import pytest

import gpuopt.data
import gpuopt.measure
import gpuopt.model
import gpuopt.report
import gpuopt.tta
from gpuopt.lazy import on_demand


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "slow.py").write_text("class Slow: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_package"
    for name in ("slow_package", "slow_package.slow"):
        sys.modules.pop(name, None)


def test_a_module_is_imported_when_its_name_is_asked_for(package):
    attribute = on_demand(package, {"slow": ("Slow",)})
    assert "slow_package.slow" not in sys.modules
    assert attribute("Slow").__module__ == "slow_package.slow"
    assert attribute("Slow") is attribute("Slow")


def test_other_names_are_unknown_as_in_any_module(package):
    attribute = on_demand(package, {"slow": ("Slow",)})
    with pytest.raises(AttributeError, match="module 'slow_package' has no attribute 'Fast'"):
        attribute("Fast")


@pytest.mark.parametrize(
    "module",
    [gpuopt.data, gpuopt.measure, gpuopt.model, gpuopt.report, gpuopt.tta],
    ids=lambda m: m.__name__,
)
def test_every_public_name_is_there(module):
    for name in module.__all__:
        assert getattr(module, name) is not None
