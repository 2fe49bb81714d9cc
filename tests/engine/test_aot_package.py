import copy
import inspect
import shutil

import pytest
import torch
from torch import nn
from torch._inductor import cpu_vec_isa

from gpuopt.engine import aot_inductor, aot_package
from gpuopt.engine.aot_inductor import AotInductor
from gpuopt.engine.cache import EngineCache
from gpuopt.engine.fallback import EngineSearch, ProofImages
from gpuopt.engine.package_trial import require_no_crash
from gpuopt.engine.protocol import CannotShare, SharingBackend, TrainedNetwork
from gpuopt.engine.seal import Seal
from gpuopt.engine.verification import Bounds
from gpuopt.errors import FaultError
from tests.engine.conftest import CPU, expected, pictures, request, small

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


class WithTable(nn.Module):
    """A network with a buffer that is in no checkpoint."""

    def __init__(self):
        super().__init__()
        self.inner = small().backbone
        self.register_buffer("table", torch.linspace(0.5, 1.5, 5), persistent=False)

    def forward(self, images):
        return self.inner(images) * self.table


def fold(seed):
    """Make a network as another fold would have trained it."""
    network = TrainedNetwork(WithTable().eval(), (120.0,) * 3, (60.0,) * 3, "table", True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.backbone.parameters():
            value.add_(torch.randn(value.shape, generator=generator))
        network.backbone.inner.norm.running_var.uniform_(0.5, 2, generator=generator)
    return network


def sharing():
    """Build as on a GPU: weights are not laid out for the processor."""
    return AotInductor({"freezing": False})


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Engines of two folds from one cache, what the cache said, and its folder."""
    folder, lines = tmp_path_factory.mktemp("shared"), []
    cache = EngineCache(folder, seal=Seal(folder), tell=lines.append)
    networks = [fold(0), fold(1)]
    return [(n, cache.open(sharing(), request(), n)) for n in networks], lines, folder


def test_folds_share_one_build_and_answer_as_themselves(opened):
    engines, lines, _ = opened
    built = [line.partition(" for ")[0] for line in lines]
    assert built == ["engine=aot_inductor_code", "engine=aot_inductor", "engine=aot_inductor"]
    images = pictures(5)
    for network, engine in engines:  # the first still answers as itself beside the second
        assert engine.name == "aot_inductor"
        torch.testing.assert_close(engine(images), expected(network, images), rtol=1e-4, atol=1e-5)
    first, second = (engine(images) for _, engine in engines)
    assert (first - second).abs().max() > 0.1


def test_a_second_start_builds_nothing_and_a_damaged_engine_is_made_of_code_that_is_there(opened):
    engines, _, folder = opened
    network, lines = engines[1][0], []
    cache = EngineCache(folder, seal=Seal(folder), tell=lines.append)
    path = cache.file(sharing(), request(), network).path
    assert lines == []
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    engine = cache.open(sharing(), request(), network)
    (line,) = lines
    assert line.startswith("engine=aot_inductor for table built")
    assert "is refused: its content is not what was built" in line
    images = pictures(3)
    torch.testing.assert_close(engine(images), expected(network, images), rtol=1e-4, atol=1e-5)


def test_weights_are_held_once(opened):
    """The code computes with the tensors that were loaded, and has no copy of them."""
    engines, _, folder = opened
    network = engines[0][0]
    path = EngineCache(folder, seal=Seal(folder)).file(sharing(), request(), network).path
    run = aot_package.open_package(path, CPU)
    images = pictures(2)
    with torch.inference_mode():
        before = run(images)
        run.weights["backbone.inner.head.weight"].zero_()
        assert not torch.equal(run(images), before)


def test_no_compiler_is_asked_about_the_processor_at_a_second_start(opened, monkeypatch):
    """What it could build takes PyTorch 2.11 most of a minute to find out on some hosts."""
    (engine_file, _) = sorted(opened[2].rglob("*aot_inductor_fp32*/engine.pt2"))
    asked = []
    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", lambda: asked.append(1))
    assert aot_package.open_package(engine_file, CPU)(pictures(2)).isfinite().all()
    assert asked == []
    with aot_inductor.quiet():
        torch._inductor.aoti_load_package(str(engine_file))
    assert asked  # else PyTorch asks elsewhere now, and this test sees nothing


def test_code_without_weights_is_tried_with_zeros(opened):
    (code,) = opened[2].rglob("*aot_inductor_code*/engine.pt2")
    require_no_crash(request(), code)
    with aot_inductor.quiet():
        assert not aot_package.open_package(code, CPU)(pictures(2)).isfinite().all()  # std is 0


def test_code_of_another_shape_is_not_shared(opened, tmp_path):
    (code,) = opened[2].rglob("*aot_inductor_code*/engine.pt2")
    other = fold(0)
    other.backbone.inner.conv = nn.Conv2d(3, 4, 5, stride=4)
    with pytest.raises(CannotShare, match=r"conv\.weight is laid out otherwise"):
        sharing().build_from(code, request(), other, tmp_path / "engine.pt2")
    lines = []
    cache = EngineCache(tmp_path, tell=lines.append)
    backend = sharing()
    backend.build_from = lambda *_: aot_inductor.fill(code, nn.Module(), tmp_path / "no", CPU)
    backend.build = lambda asked, network, path: path.write_bytes(b"its own")
    backend.code = Written
    assert cache.file(backend, request(), fold(2)).path.read_bytes() == b"its own"
    assert any("is compiled for these weights alone: backbone" in line for line in lines)


class Written:
    """Stands in for what compiles code."""

    name, suffix = "written", ".pt2"

    def unavailable(self, device):
        return None

    def versions(self, device):
        return {}

    def build(self, asked, network, path):
        path.write_bytes(b"code")


def test_a_weight_that_became_code_is_found_and_refused(tmp_path, monkeypatch):
    """Inductor makes small vectors a part of the code unless it is told not to."""
    baking = {**aot_package.SHARED_CODE, "always_keep_tensor_constants": False}
    monkeypatch.setattr(aot_inductor, "SHARED_CODE", baking)
    first = small()
    code, path = tmp_path / "code.pt2", tmp_path / "engine.pt2"
    sharing().code().build(request(), first, code)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second.backbone.head.bias.add_(torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0]))
    with pytest.raises(CannotShare, match=r"made backbone\.\w+\.bias a part of the code"):
        sharing().build_from(code, request(), second, path)

    # Shared all the same, it answers with the first one's bias: the proof notices.
    layout = aot_package._layout(code)
    object.__setattr__(layout, "used", layout.used - {"backbone.head.bias", "backbone.conv.bias"})
    monkeypatch.setattr(aot_package, "_layout", lambda place: layout)
    sharing().build_from(code, request(), second, path)
    images = pictures(600)
    search = EngineSearch(
        request(),
        second,
        ProofImages(images, tuple(map(str, range(600)))),
        make=lambda name, asked: sharing().load(asked, path),
        tell=lambda line: None,
        bounds=Bounds(),
    )
    proved, attempts = search.prove("aot_inductor")
    assert proved is None
    assert attempts[0].verification is not None
    assert attempts[0].verification.agreement < 0.999


def test_a_constant_of_the_networks_code_is_no_weight(tmp_path):
    class Shifted(WithTable):
        def forward(self, images):
            return self.inner(images) + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    network = TrainedNetwork(Shifted().eval(), (120.0,) * 3, (60.0,) * 3, "shifted")
    with pytest.raises(CannotShare, match="is a constant of the network's code"):
        sharing().code().build(request(), network, tmp_path / "code.pt2")


def test_where_code_cannot_be_shared_the_reason_is_said(monkeypatch, tmp_path):
    assert "laid out for the CPU" in AotInductor().own_build(CPU)
    assert sharing().own_build(CPU) is None
    assert AotInductor().own_build(torch.device("cuda", 0)) is None
    assert isinstance(AotInductor(), SharingBackend)
    from torch.export.pt2_archive._package import AOTICompiledModel

    def load_constants(self, constants_map, *, check_full_update):
        """As PyTorch had it before weights could be lent."""

    monkeypatch.setattr(AOTICompiledModel, "load_constants", load_constants)
    assert "user_managed" not in inspect.signature(AOTICompiledModel.load_constants).parameters
    backend, lines = sharing(), []
    assert "cannot put other weights into a package" in backend.own_build(CPU)
    backend.build = lambda asked, network, path: path.write_bytes(b"its own")
    EngineCache(tmp_path, tell=lines.append).file(backend, request(), small())
    assert lines[0].startswith("engine=aot_inductor is compiled for these weights alone: PyTorch")


def test_a_package_of_others_is_one_line(tmp_path):
    path = tmp_path / "engine.pt2"
    path.write_bytes(b"no package")
    with pytest.raises(FaultError, match="cannot be loaded"):
        sharing().load(request(), path)
