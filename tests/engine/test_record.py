import json
from dataclasses import replace

import pytest

from gpuopt.engine.race import Timing
from gpuopt.engine.record import (
    ENGINES,
    EngineRecord,
    Surroundings,
    fastest_verified,
    write_record,
)
from gpuopt.engine.verification import BatchProof, Bounds, Verification
from gpuopt.measure.pairs import PairedRatio

HERE = Surroundings("ab12", {"device": "card", "driver": "580"}, {"torch": "2.14.1"}, 32)
RATIO = PairedRatio(0.5, 0.4, 0.6, 0.5, 0.01, 10)


def engine(name, rate, *, is_verified=True, precision="fp32", layers=(), engine_rate=1.0):
    proof = Verification(
        is_verified,
        () if is_verified else ("KL",),
        name,
        precision,
        ("1.png", "2.png"),
        "cd",
        (BatchProof(8, 0, 0.1, 1e-6, 1.0),),
        0.0,
        Bounds(),
        0,
        "cpu",
    )
    timings = (
        Timing("engine", 8, 20, 1, 2, 3, engine_rate, 1, 1, RATIO),
        Timing("end_to_end", 8, 20, 1, 2, 3, rate, rate, rate),
        Timing("end_to_end", 1, 20, 1, 2, 3, 1e6, 1, 1),
    )
    return EngineRecord(name, precision, layers, 3.5, None, is_verified, str(proof), proof, timings)


def write(run, *records, surroundings=HERE):
    return write_record(
        run, surroundings, records, optimal_batch_size=8, max_batch_size=16, extra={"warmup": 10}
    )


def test_the_fastest_of_those_that_were_proved_is_taken(tmp_path):
    write(
        tmp_path,
        engine("eager", 100.0, engine_rate=900.0),
        engine("onnx", 300.0, precision="fp16", layers=("blocks.5",)),
        engine("compiled", 500.0, is_verified=False),
        EngineRecord("tensorrt", "fp16", (), None, None, False, "not installed", None, ()),
    )
    found = fastest_verified(tmp_path, HERE)
    assert (found.name, found.precision, found.fp32_layers) == ("onnx", "fp16", ("blocks.5",))
    assert (found.optimal_batch_size, found.max_batch_size) == (8, 16)
    assert found.samples_per_second == 300.0
    assert found.least_images == 500


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "another"},
        {"device": {"device": "card", "driver": "590"}},
        {"versions": {"torch": "2.15.0"}},
        {"image_size": 64},
    ],
)
def test_a_record_of_other_weights_or_another_gpu_does_not_count(tmp_path, change):
    write(tmp_path, engine("onnx", 300.0))
    assert fastest_verified(tmp_path, HERE) is not None
    assert fastest_verified(tmp_path, replace(HERE, **change)) is None


def test_one_that_could_not_be_timed_costs_the_others_nothing(tmp_path):
    untimed = replace(engine("tensorrt", 900.0), timings=(), faults=("not timed at a batch of 8",))
    path = write(tmp_path, untimed, engine("onnx", 300.0))
    assert fastest_verified(tmp_path, HERE).name == "onnx"
    assert json.loads(path.read_text())["engines"][0]["faults"] == ["not timed at a batch of 8"]


def test_without_a_proved_engine_there_is_none(tmp_path):
    assert fastest_verified(tmp_path, HERE) is None
    write(tmp_path, engine("onnx", 300.0, is_verified=False))
    assert fastest_verified(tmp_path, HERE) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine", "../../evil"),
        ("precision", "int1"),
        ("timings", []),
        ("timings", None),
        ("fp32_layers", 5),
        ("is_verified", "yes"),
        ("verification", None),
    ],
)
def test_a_record_that_somebody_wrote_is_not_trusted(tmp_path, key, value):
    path = write(tmp_path, engine("onnx", 300.0))
    content = json.loads(path.read_text())
    content["engines"][0][key] = value
    path.write_text(json.dumps(content))
    assert fastest_verified(tmp_path, HERE) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', "\x00"])
def test_a_damaged_record_does_not_count(tmp_path, text):
    (tmp_path / ENGINES).write_text(text)
    assert fastest_verified(tmp_path, HERE) is None


def test_the_file_holds_all_figures_but_no_list_of_images(tmp_path):
    path = write(tmp_path, engine("onnx", 300.0))
    content = json.loads(path.read_text())
    assert (content["schema"], content["warmup"]) == (1, 10)
    (entry,) = content["engines"]
    assert entry["verification"]["agreement"] == 1.0
    assert entry["verification"]["image_count"] == 2
    assert "images" not in entry["verification"]
    assert entry["timings"][0]["time_ratio"]["ratio"] == 0.5
    assert entry["build_s"] == 3.5


def test_timings_are_found_by_scope_and_size():
    record = engine("onnx", 300.0)
    assert record.timing("end_to_end", 8).samples_per_second == 300.0
    assert record.timing("engine", 1) is None
