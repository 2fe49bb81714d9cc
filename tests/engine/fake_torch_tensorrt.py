"""Stands in for torch-tensorrt: takes what the recorded release takes, and computes with torch.

Every call is bound to the recorded signature and noted. An engine is the exported program itself;
it refuses a batch outside of the active profile, as TensorRT does.
"""

import io
from types import SimpleNamespace

import torch
from torch.utils import _pytree as pytree

from tests.engine.package_signatures import recorded, signature_of

MAGIC = b"fake engine\n"


def make_library(version=None, is_rtx=False):
    """Make the module; its `calls` are pairs of a name and the arguments."""
    calls = []

    def note(path, *args, **kwargs):
        bound = signature_of(path).bind(*args, **kwargs)
        calls.append((path.rpartition(".")[2], bound.arguments))
        return SimpleNamespace(**bound.arguments)

    def convert(*args, **kwargs):
        path = "torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine"
        return _convert(note(path, *args, **kwargs))

    class Module(_Module):
        def __init__(self, *args, **kwargs):
            super().__init__(note("torch_tensorrt.runtime.TorchTensorRTModule", *args, **kwargs))

        def set_optimization_profile(self, profile):
            calls.append(("set_optimization_profile", profile))
            self.active = profile

    settings = "torch_tensorrt.dynamo.CompilationSettings"
    return SimpleNamespace(
        __version__=version or recorded()["version"],
        ENABLED_FEATURES=SimpleNamespace(tensorrt_rtx=is_rtx),
        Device=lambda **kwargs: note("torch_tensorrt.Device", **kwargs),
        Input=lambda **kwargs: note("torch_tensorrt.Input", **kwargs),
        dynamo=SimpleNamespace(
            CompilationSettings=lambda **kwargs: note(settings, **kwargs),
            convert_exported_program_to_serialized_trt_engine=convert,
        ),
        runtime=SimpleNamespace(TorchTensorRTModule=Module),
        calls=calls,
    )


def _convert(given):
    program = given.exported_program
    # As the package checks the names that are given to inputs and outputs.
    signature = program.module_call_graph[0].signature
    assert pytree.tree_flatten(given.arg_input_binding_names)[1] == signature.in_spec.child(0)
    assert pytree.tree_flatten(given.output_binding_names)[1] == signature.out_spec
    assert given.timing_cache_path.endswith("timing.cache")
    (spec,) = given.arg_inputs
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={"profiles": repr(_batches(spec.profiles))})
    return MAGIC + stream.getvalue()


def _batches(profiles):
    """Check profiles as `torch_tensorrt.Input` does, and return their batch sizes."""
    for profile in profiles:
        least, best, most = (profile[f"{name}_shape"] for name in ("min", "opt", "max"))
        assert all(1 <= a <= b <= c for a, b, c in zip(least, best, most, strict=True))
        assert least[1:] == most[1:]
    return [(p["min_shape"][0], p["max_shape"][0]) for p in profiles]


class _Module(torch.nn.Module):
    """A loaded engine, on the profile 0 at first."""

    def __init__(self, given):
        super().__init__()
        if not given.serialized_engine.startswith(MAGIC):
            raise RuntimeError("Unable to deserialize the TensorRT engine\nmore of it")
        extra = {"profiles": ""}
        content = io.BytesIO(given.serialized_engine.removeprefix(MAGIC))
        self._program = torch.export.load(content, extra_files=extra).module()
        self._profiles = [tuple(map(int, pair)) for pair in _pairs(extra["profiles"])]
        self.active, self.seen = 0, []

    def forward(self, images):
        least, most = self._profiles[self.active]
        assert least <= len(images) <= most, "the batch is outside of the active profile"
        assert images.is_contiguous()
        self.seen.append(len(images))
        return self._program(images)


def _pairs(text):
    numbers = [int(n) for n in text.translate(str.maketrans("[](),", "     ")).split()]
    return zip(numbers[::2], numbers[1::2], strict=True)
