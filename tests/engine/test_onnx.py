import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gpuopt.engine import onnx as module
from gpuopt.engine.onnx import Onnx, _OnnxEngine, provider_options
from gpuopt.engine.providers import PROVIDERS
from gpuopt.errors import FaultError, InputError
from tests.engine.conftest import CPU, expected, pictures, request, small, trained

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A vision transformer in fp16, whose graph says so."""
    path = tmp_path_factory.mktemp("onnx") / "engine.onnx"
    network = trained("test_vit")
    Onnx().build(request("fp16"), network, path)
    return network, path


def test_a_file_takes_any_batch_size(tmp_path):
    network, path = trained("test_efficientnet"), tmp_path / "engine.onnx"
    Onnx().build(request(), network, path)
    engine = Onnx().load(request(), path)
    assert (engine.name, engine.device, engine.precision) == ("onnx", CPU, "fp32")
    assert engine.provider == "cpu"
    for count in (1, 3, 6):
        images = pictures(count)
        torch.testing.assert_close(engine(images), expected(network, images), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="takes uint8 images"):
        engine(pictures(7))
    graph = onnx.load(path).graph
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_graph_says_what_is_computed_in_half_precision(half):
    _, path = half
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input]}
    types |= {v.name: v.data_type for v in graph.initializer}
    found = {}
    for node in graph.node:
        found.setdefault(node.op_type, []).append(types[node.input[0]])
    wide, narrow = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert set(found["LayerNormalization"]) == {wide}
    assert set(found["Softmax"]) == {wide}
    products = found["MatMul"] + found.get("Gemm", [])
    assert products.count(narrow) > 20
    assert products.count(wide) == 1  # the head
    assert graph.output[0].type.tensor_type.elem_type == wide


def test_half_precision_answers_nearly_the_same(half):
    network, path = half
    reference = expected(network, pictures(5))
    logits = Onnx().load(request("fp16"), path)(pictures(5))
    assert logits.dtype == torch.float32
    assert (logits - reference).abs().max() <= 6e-3 * reference.abs().max()


def test_a_single_image_at_a_time(tmp_path):
    alone = request(most=1, optimal=1)
    Onnx().build(alone, small(), tmp_path / "engine.onnx")
    engine = Onnx().load(alone, tmp_path / "engine.onnx")
    torch.testing.assert_close(engine(pictures(1)), expected(small(), pictures(1)))


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    for device, extra in (("cpu", r"gpuopt\[onnx\]"), ("cuda", r"gpuopt\[onnx-gpu\]")):
        assert __import__("re").search(extra, Onnx().unavailable(torch.device(device)))
    with pytest.raises(InputError, match=r"pip install 'gpuopt\[onnx\]'"):
        Onnx().build(request(), small(), tmp_path / "engine.onnx")


def test_a_gpu_needs_a_provider_for_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert "no provider for this GPU" in Onnx().unavailable(torch.device("cuda"))
    assert Onnx().unavailable(CPU) is None
    assert "provider=cuda: the device is a CPU" in Onnx("cuda").unavailable(CPU)


def test_what_cannot_be_written_leaves_no_file(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no operator\nand a long report")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(FaultError, match=r"written as ONNX \(RuntimeError: no operator\): take"):
        Onnx().build(request(), small(), tmp_path / "engine.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_no_onnx_file_is_one_line(tmp_path):
    path = tmp_path / "engine.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(FaultError, match="cannot be loaded"):
        Onnx().load(request(), path)


def test_running_out_of_memory_is_pytorchs_error():
    def full(*args):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 8")

    engine = _OnnxEngine(request(), SimpleNamespace(run=full), "cpu")
    with pytest.raises(torch.OutOfMemoryError, match="Failed to allocate"):
        engine(pictures(1))


def test_providers_get_both_profiles_and_the_precision_of_the_graph(tmp_path):
    asked = request("fp16", most=64, optimal=32)
    path = tmp_path / "engine.onnx"
    path.write_bytes(b"graph")
    assert provider_options("cpu", asked, path) == {}
    options = provider_options("tensorrt", asked, path)
    assert options["trt_profile_min_shapes"] == "images:1x3x32x32"
    assert options["trt_profile_opt_shapes"] == "images:32x3x32x32"
    assert options["trt_profile_max_shapes"] == "images:64x3x32x32"
    assert (options["trt_fp16_enable"], options["trt_bf16_enable"]) == ("1", "0")
    rtx = provider_options("tensorrt_rtx", asked, path)
    assert rtx["nv_profile_max_shapes"] == "images:64x3x32x32"
    assert "fp16" not in str(rtx)
    before = torch.get_float32_matmul_precision()
    try:
        for kind, expected_word in (("highest", "0"), ("high", "1")):
            torch.set_float32_matmul_precision(kind)
            assert provider_options("cuda", asked, path)["use_tf32"] == expected_word
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_a_provider_builds_is_kept_by_the_content_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "default_cache_dir", lambda: tmp_path / "cache")
    path = tmp_path / "engine.onnx"

    def places():
        tensorrt = provider_options("tensorrt", request(), path)["trt_engine_cache_path"]
        return tensorrt, provider_options("tensorrt_rtx", request(), path)["nv_runtime_cache_path"]

    path.write_bytes(b"weights")
    first = places()
    path.write_bytes(b"others!")
    assert len({*first, *places()}) == 4
    path.rename(path.with_name("moved.onnx"))
    path = path.with_name("moved.onnx")
    path.write_bytes(b"weights")
    assert places() == first
    assert all(place.startswith(str(tmp_path / "cache" / "engines")) for place in first)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU where ONNX Runtime was built with TensorRT, whose libraries are not there."""
    import onnxruntime

    asked = []

    class Session:
        def __init__(self, path, options, providers):
            asked.append([name for name, _ in providers])

        def get_providers(self):
            started = [name for name in asked[-1] if name in works]
            return [*started, PROVIDERS["cpu"]]

    works = {PROVIDERS["cuda"]}
    monkeypatch.setattr(module, "default_cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(module, "_available", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    (tmp_path / "engine.onnx").write_bytes(b"graph")
    return SimpleNamespace(asked=asked, works=works, path=tmp_path / "engine.onnx")


def test_without_the_libraries_of_tensorrt_auto_takes_cuda_and_says_why(gpu, caplog):
    asked = replace(request(), device=torch.device("cuda"))
    assert Onnx().load(asked, gpu.path).provider == "cuda"
    assert gpu.asked == [[PROVIDERS["tensorrt"], PROVIDERS["cuda"]], [PROVIDERS["cuda"]]]
    assert "provider=tensorrt: ONNX Runtime could not start" in caplog.text
    assert "provider=cuda is tried" in caplog.text
    with pytest.raises(FaultError, match="could not start TensorrtExecutionProvider"):
        Onnx("tensorrt").load(asked, gpu.path)
    gpu.works.clear()
    with pytest.raises(FaultError, match="could not start CUDAExecutionProvider"):
        Onnx().load(asked, gpu.path)


def test_on_a_gpu_images_and_logits_stay_where_they_are(monkeypatch):
    """With a session that only records: what is bound, and that PyTorch's work is waited for."""
    events = []

    class Binding:
        def bind_input(self, *args):
            events.append(("input", *args[:5]))

        def bind_output(self, *args):
            events.append(("output", *args[:5]))

        def synchronize_outputs(self):
            events.append("wait")

    session = SimpleNamespace(
        io_binding=Binding, run_with_iobinding=lambda binding: events.append("run")
    )
    engine = _OnnxEngine(request(), session, "cuda")
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda device: SimpleNamespace(synchronize=lambda: events.append("ready")),
    )
    assert engine._bound(pictures(2)).shape == (2, 5)
    assert events == [
        ("input", "images", "cuda", 0, np.uint8, [2, 3, 32, 32]),
        ("output", "logits", "cuda", 0, np.float32, [2, 5]),
        "ready",
        "run",
        "wait",
    ]
