import csv
import json

import pytest

from gpuopt.profiling import profile_of, trace_of
from gpuopt.profiling.files import new_folder, write_profile
from tests.profiling.events import memory, on_device


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def folder(tmp_path):
    events = [*on_device(), memory(1100, 64, 64, True, 512)]
    events.append(dict(events[0], name="ProfilerStep#7", ts=3000, dur=1000))
    (tmp_path / "trace.json.gz").write_bytes(b"the trace")
    profile = profile_of(trace_of(events), plain_step_ms=1.0)
    files = write_profile(tmp_path, profile, {"model": "test"}, ["a=1 (table: b)"])
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert files[0].name == "profile.html"
    return tmp_path


def test_tables_are_per_step(folder):
    operators = {row["name"]: row for row in read(folder / "operators.csv")}
    assert float(operators["aten::conv"]["self_device_ms_per_step"]) == pytest.approx(1.29 / 3)
    assert float(operators["aten::conv"]["total_host_ms_per_step"]) == pytest.approx(0.1 / 3)
    kernels = read(folder / "kernels.csv")
    assert [row["name"] for row in kernels] == ["first", "second"]
    assert float(kernels[0]["mean_us"]) == pytest.approx(430)
    assert float(kernels[0]["calls_per_step"]) == 1
    (copies,) = read(folder / "copies.csv")
    assert float(copies["gib_per_second"]) == pytest.approx(1024 / 2**30 / 100e-6)
    (waits,) = read(folder / "synchronisations.csv")
    assert waits["operator"] == "aten::_local_scalar_dense"
    (point,) = read(folder / "memory_timeline.csv")
    assert point == {"ms": "0.1", "allocated_bytes": "64", "reserved_bytes": "512"}


def test_what_was_not_recorded_has_no_file(folder):
    names = {path.name for path in folder.iterdir()}
    assert not names & {"functions.csv", "operators_by_shape.csv", "allocator_snapshot.pickle"}


def test_the_summary_is_for_programs(folder):
    content = json.loads((folder / "summary.json").read_text())
    assert content["schema"] == 1
    assert content["facts"] == {"model": "test"}
    assert content["choices"] == ["a=1 (table: b)"]
    assert content["overhead_ratio"] == content["step_ms"] == 1.0


def test_the_page_links_what_lies_beside_it(folder):
    page = (folder / "profile.html").read_text()
    names = {path.name for path in folder.iterdir()} - {"profile.html"}
    assert all(f'href="{name}"' in page for name in names)


def test_a_folder_is_always_new(tmp_path):
    folders = [new_folder(tmp_path / "deep/er", "now") for _ in range(3)]
    assert [folder.name for folder in folders] == ["now", "now_2", "now_3"]
    assert all(folder.is_dir() for folder in folders)


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        new_folder(tmp_path / "file", "now")
    assert (tmp_path / "file").read_text() == "mine"
