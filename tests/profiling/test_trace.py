import gzip
import json

import pytest

from gpuopt.errors import InputError
from gpuopt.profiling import read_trace, trace_of
from tests.profiling.events import kernel, on_device, step


def test_files_are_read_with_and_without_compression(tmp_path):
    text = json.dumps({"traceEvents": on_device()})
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(text.encode()))
    assert read_trace(tmp_path / "a.json") == read_trace(tmp_path / "a.json.gz")
    assert read_trace(tmp_path / "a.json") == trace_of(reversed(on_device()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\x1f\x8b",
        gzip.compress(b"{", mtime=0)[:-4],
        gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20,  # damaged behind its header
        b'{"traceEvents": 3}',
    ],
)
def test_what_is_no_trace_is_refused(tmp_path, content):
    for name in ("a.json", "a.json.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"is no trace of torch\.profiler"):
            read_trace(tmp_path / name)


def test_a_trace_without_steps_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"traceEvents": on_device()[2:]}))
    with pytest.raises(InputError, match="holds no step"):
        read_trace(tmp_path / "a.json")


def test_of_several_devices_the_busiest_is_looked_at():
    events = [step(0, 10), kernel("a", 0, 1, device=0)]
    events += [kernel("b", 2, 3, device=1), kernel("b", 4, 5, device=1)]
    assert {work.name for work in trace_of(events).kernels} == {"b"}
