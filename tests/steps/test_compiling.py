import importlib
import importlib.metadata
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gpuopt.measure.compile_choice import CompileFailedError
from gpuopt.steps.compiled_part import CompiledPart
from gpuopt.steps.compiler_cache import CompilerCache, missing_compiler
from gpuopt.steps.compiling import CompileTask, PartCall, left_memory_ratio, run_part
from gpuopt.steps.compiling_process import CompilingProcess

CPU = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def call(samples=2, autocast=None):
    return PartCall((torch.randn(samples, 3, 4, 4),), {}, autocast)


def task(part=None, **options):
    settings = {"backend": "eager", "has_chance": False, **options}
    return CompileTask.of(part or net(), settings.pop("call", call()), CPU, **settings)


def test_a_task_holds_shapes_only_and_leaves_the_part_alone():
    part = net().to(memory_format=torch.channels_last)
    part[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in part.state_dict().items()}
    made = task(part)
    inner = [*made.part.parameters(), *made.part.buffers(), *made.call.args]
    assert all(tensor.is_meta for tensor in inner)
    for (name, own), (other_name, shape) in zip(
        part.named_parameters(), made.part.named_parameters(), strict=True
    ):
        assert (name, own.shape, own.stride()) == (other_name, shape.shape, shape.stride())
        assert own.requires_grad == shape.requires_grad
    assert all(torch.equal(value, part.state_dict()[name]) for name, value in before.items())
    assert all(parameter.device == CPU for parameter in part.parameters())


def test_its_name_tells_apart_what_is_compiled_apart():
    part = net()
    names = [
        task(part).digest("default"),
        task(part).digest("max-autotune"),
        task(part, backend="inductor").digest("default"),
        task(part, has_chance=True).digest("default"),
        task(part, call=call(samples=3)).digest("default"),
        task(part, call=call(autocast=torch.bfloat16)).digest("default"),
        task(nn.Sequential(*part, nn.Dropout())).digest("default"),
        task(net().to(memory_format=torch.channels_last)).digest("default"),
    ]
    assert len(set(names[:-1])) == len(names) - 1
    assert task(net()).digest("default") == names[0]  # whatever the weights are


def test_its_name_tells_apart_the_cards_of_a_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")

    def digest(index):
        card = torch.device("cuda", index)
        made = CompileTask.of(net(), call(), card, "inductor", has_chance=False)
        return made.digest("default")

    assert digest(0) == digest(0) != digest(1)


@pytest.mark.parametrize("package", ["torch", "triton", "timm", "gpuopt"])
def test_its_name_tells_apart_versions(monkeypatch, package):
    before = task().digest("default")
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == package else version(name)
    )
    assert task().digest("default") != before


def test_its_name_follows_the_source_of_the_classes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    place = tmp_path / "somebodys_part.py"
    source = "from torch import nn\nclass Part(nn.Sequential):\n    pass\n"
    place.write_text(source)
    module = importlib.import_module("somebodys_part")

    def digest():
        return task(nn.Sequential(module.Part(*net()))).digest("default")

    before = digest()
    assert digest() == before
    place.write_text(source.replace("pass", "wide = True"))
    assert digest() != before
    place.unlink()  # as of a class that was typed in
    assert digest() != before


def test_a_precision_that_pytorch_cannot_name_is_a_reason(monkeypatch):
    def mixed():  # as PyTorch says where torch.backends.cuda.matmul.fp32_precision was set
        raise RuntimeError("PyTorch is checking whether allow_tf32_new is enabled for cuBlas")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with pytest.raises(CompileFailedError, match=r"matmul\.fp32_precision is set"):
            task()
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_a_limit_on_the_memory_holds_for_both_processes_together(monkeypatch):
    card = torch.device("cuda", 0)
    allowed = [0.5]
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: allowed[0])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=100)
    )
    assert left_memory_ratio(card) == pytest.approx(0.2)
    assert left_memory_ratio(CPU) is None
    allowed[0] = 0.2
    assert left_memory_ratio(card) == 0
    allowed[0] = 1.0
    assert left_memory_ratio(card) is None


def test_made_up_numbers_keep_what_is_shared_and_the_settings():
    part = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    part[1].weight = part[0].weight
    part[1].bias.requires_grad_(False)
    made = task(part, call=PartCall((torch.ones(2, 4),), {}, None))
    before = torch.get_num_threads()
    made.compile("default")
    assert made.part[0].weight is made.part[1].weight
    assert made.part[0].weight.grad is not None
    assert made.part[1].bias.grad is None
    assert torch.get_num_threads() == before
    torch.compiler.reset()


def test_a_part_of_no_one_tensor_is_refused():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(TypeError, match="Two returns no tensor but tuple"):
        run_part(Two(), call(), CPU)


@pytest.mark.slow
@pytest.mark.skipif(missing_compiler(CPU, "inductor") is not None, reason="needs a C++ compiler")
def test_what_a_process_has_compiled_is_taken_from_the_cache(tmp_path):
    from torch._dynamo.utils import counters

    # Of a convolution, whose memory format is part of the key, and nothing else to be generated.
    part, compiled_call = net()[0], call()
    made = task(part, call=compiled_call, backend="inductor")
    torch.compiler.reset()
    counters.clear()
    with CompilerCache(tmp_path).in_use():
        process = CompilingProcess(made, "default")
        try:
            while not process.is_done:
                time.sleep(0.05)
            assert process.fault() is None
        finally:
            process.end()
        compiled = CompiledPart(part, "default", "inductor")
        eager = run_part(part, compiled_call, CPU)
        compiled.compiling()
        found = run_part(part, compiled_call, CPU)
        torch.autograd.backward(found.sum())
    torch.testing.assert_close(found, eager)
    assert counters["aot_autograd"]["autograd_cache_hit"] == 1
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
    torch.compiler.reset()
