import json
from dataclasses import replace

import pytest

from gpuopt.checks import make_report
from gpuopt.checks.drivers import engine_facts
from tests.checks.machines import BUILD, CATALOGUE, EMPTY, MACHINE, preset, request
from tests.checks.test_summary import shown


def verdicts(machine=MACHINE, build=BUILD, **changes):
    found = make_report("drivers", request(machine, build, **changes))
    ((_, facts),) = found.devices
    return {fact.name: fact.verdict for fact in facts}, found


def test_a_card_with_a_driver_that_fits():
    found, report = verdicts()
    assert found["driver"] == "runs CUDA up to 13.0, enough"
    assert found["architectures"] == "holds code for SM 8.6"
    assert found["bf16"] == "in hardware"
    assert report.pitfalls == []
    text = shown(report)
    for words in ("RTX 3060 12GB", "580.65.06", "sm_86", "9.24.0", "2.30.7"):
        assert words in text


def test_a_driver_too_old_names_the_least_one():
    found, report = verdicts(replace(MACHINE, driver="550.1", driver_cuda="12.4"))
    assert found["driver"] == "runs CUDA up to 12.4; CUDA 13.0 needs 580 or later"
    assert [pitfall.name for pitfall in report.pitfalls] == ["driver too old"]


def test_a_card_that_the_build_has_no_code_for():
    found, report = verdicts(EMPTY, gpu=preset("v100"))
    assert found["driver"] == "CUDA 13.0 needs 580 or later"
    assert found["architectures"] == "holds none for SM 7.0"
    assert found["torch-tensorrt"] == "not for SM 7.0"
    assert found["bf16"].startswith("emulated only")
    assert len(report.pitfalls) == 1


@pytest.mark.parametrize(
    ("stem", "providers", "words"),
    [
        ("rtx3060", None, "pip install 'gpuopt[onnx-gpu]' for engine=onnx"),
        ("cpu", None, "pip install 'gpuopt[onnx]' for engine=onnx"),
        ("rtx3060", ("CPUExecutionProvider",), "none for a card"),
        ("rtx3060", ("CUDAExecutionProvider",), "provider=auto takes cuda"),
        ("rtx3060", ("NvTensorRTRTXExecutionProvider",), "provider=auto takes tensorrt_rtx"),
        ("h100", ("NvTensorRTRTXExecutionProvider",), "none for a card"),
        ("cpu", ("CPUExecutionProvider",), "provider=auto takes cpu"),
    ],
)
def test_providers_are_judged_for_the_device(stem, providers, words):
    facts = engine_facts(replace(BUILD, onnx_providers=providers), CATALOGUE[stem])
    (onnx,) = [fact for fact in facts if fact.name == "ONNX Runtime"]
    assert words in onnx.verdict


def test_what_is_missing_says_how_to_get_it():
    bare = replace(BUILD, packages={})
    found = {fact.name: fact for fact in engine_facts(bare, CATALOGUE["rtx3060"])}
    assert found["Triton (compile)"].found == "n/a"
    assert "pip install" in found["Triton (compile)"].verdict
    assert "gpuopt[tensorrt]" in found["torch-tensorrt"].verdict
    full = replace(BUILD, packages={"triton": "3.8.0", "torch-tensorrt": "2.14.0"})
    found = {fact.name: fact for fact in engine_facts(full, CATALOGUE["rtx3060"])}
    assert found["torch-tensorrt"].verdict == "engine=tensorrt works"


def test_the_processors_need_none_of_it():
    found, _ = verdicts(EMPTY)
    assert found["driver"] == "not needed"
    assert "bf16" not in found


def test_json_holds_the_same():
    _, report = verdicts()
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert values["build"]["arch_list"] == list(BUILD.arch_list)
    assert values["devices"][0]["facts"][0]["name"] == "driver"
