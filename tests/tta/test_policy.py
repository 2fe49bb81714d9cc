import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gpuopt.errors
import gpuopt.tta
from gpuopt.errors import InputError
from gpuopt.tta import TestTimeAugmentation

ROOT = Path(gpuopt.errors.__file__).parents[1]
COUNTS = {"none": 1, "legacy": 3, "essential": 5, "comprehensive": 15, "doc15": 15}


def test_checking_a_policy_imports_no_torch():
    code = (
        "import sys, gpuopt.tta as tta; tta.TestTimeAugmentation().check();"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules;"
        "tta.TtaPredictor; assert 'torch' in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_every_public_name_loads():
    for name in gpuopt.tta.__all__:
        assert getattr(gpuopt.tta, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        gpuopt.tta.no_such_name  # noqa: B018 - the access is what is tested


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_policies_are_valid_and_start_with_the_image_as_it_is(name):
    text = (ROOT / "conf" / "tta" / f"{name}.yaml").read_text(encoding="utf-8")
    policy = TestTimeAugmentation(**yaml.safe_load(text))
    policy.check()
    views = policy.parsed_views()
    assert policy.name == name
    assert len(views) == COUNTS[name]
    assert views[0].is_identity


def test_no_other_policy_is_shipped():
    assert {path.stem for path in (ROOT / "conf" / "tta").glob("*.yaml")} == set(COUNTS)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"merge": "geometrc"}, "nearest: geometric"),
        ({"merge": None}, "tta.merge"),
        ({"chunk_size": 0}, "tta.chunk_size"),
        ({"chunk_size": -3}, "tta.chunk_size"),
        ({"chunk_size": True}, "tta.chunk_size"),
        ({"chunk_size": 2.5}, "tta.chunk_size"),
        ({"chunk_size": "many"}, "tta.chunk_size"),
        ({"chunk_size": 10**9}, "tta.chunk_size"),
        ({"views": [{"spin": 3}]}, "spin"),
    ],
)
def test_bad_policies_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        TestTimeAugmentation(**options).check()


def test_what_decides_the_probabilities_decides_the_fingerprint():
    def fingerprint(views, **options):
        return TestTimeAugmentation("any", views, **options).fingerprint

    two = fingerprint([{}, {"rotate": 90, "contrast": 1.2}])
    assert fingerprint([{"rotate": 90.0, "contrast": 1.2}, {}], chunk_size=4) == two
    assert fingerprint([{"weight": 3}, {"rotate": 90, "contrast": 1.2, "weight": 3.0}]) == two
    others = [
        fingerprint([{}, {"contrast": 1.2, "rotate": 90}]),  # applied in another order
        fingerprint([{}, {"rotate": 91, "contrast": 1.2}]),
        fingerprint([{"weight": 2}, {"rotate": 90, "contrast": 1.2}]),
        fingerprint([{}, {"rotate": 90, "contrast": 1.2}], merge="geometric"),
        fingerprint([{}]),
    ]
    assert len({two, *others}) == 6
    assert fingerprint([{"weight": 5}], merge="geometric") == TestTimeAugmentation().fingerprint


def test_a_single_view_is_the_image_as_it_is():
    assert TestTimeAugmentation().is_single_view
    assert not TestTimeAugmentation("turned", [{"rotate": 90}]).is_single_view
    assert not TestTimeAugmentation("two", [{}, {"rotate": 90}]).is_single_view
