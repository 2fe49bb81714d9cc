import shutil

import pytest
import torch

from gpuopt.engine import EngineRequest
from gpuopt.engine.calls import padded
from gpuopt.engine.compiled import Compiled
from gpuopt.engine.eager import Eager
from gpuopt.errors import InputError
from tests.engine.conftest import CPU, expected, pictures, request, small, trained


def test_eager_answers_every_batch_up_to_the_maximum():
    network = trained("test_efficientnet")
    engine = Eager().wrap(request(), network)
    assert (engine.name, engine.device, engine.precision) == ("eager", CPU, "fp32")
    assert engine.max_batch_size == 6
    for count in (1, 4, 6):
        images = pictures(count)
        logits = engine(images)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected(network, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        pictures(7),
        pictures(0),
        pictures(2).float(),
        pictures(2)[:, :1],
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
    ],
)
def test_other_images_than_it_was_made_for_are_refused(images):
    with pytest.raises(InputError, match=r"takes uint8 images \[1 to 6, 3, 32, 32\], not "):
        Eager().wrap(request(), small())(images)


def test_compiled_code_sees_three_batch_sizes_only():
    network, shapes = small(), []

    def backend(graph, inputs):
        shapes.append(next(tuple(i.shape) for i in inputs if i.dtype == torch.uint8))
        return graph.forward

    engine = Compiled(backend=backend).wrap(request(), network)
    for count in (1, 2, 3, 4, 5, 6, 1, 3, 6):
        images = pictures(count, seed=count)
        torch.testing.assert_close(engine(images), expected(network, images))
    assert sorted(shape[0] for shape in shapes) == [1, 4, 6]


def test_after_an_out_of_memory_a_half_batch_is_not_filled_up_again():
    network, seen = small(), []

    def backend(graph, inputs):
        def run(*given):
            count = next(len(tensor) for tensor in given if tensor.dtype == torch.uint8)
            seen.append(count)
            if count > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return graph.forward(*given)

        return run

    engine = Compiled(backend=backend).wrap(request(optimal=6), network)
    with pytest.raises(torch.OutOfMemoryError):
        engine(pictures(6))
    images = pictures(3)
    torch.testing.assert_close(engine(images), expected(network, images))
    engine(pictures(2))  # the last of a data set
    assert seen == [6, 3, 3]


def test_padding_repeats_the_images():
    images = pictures(3)
    filled = padded(images, 8)
    assert torch.equal(filled, images[[0, 1, 2, 0, 1, 2, 0, 1]])
    assert padded(images, 3) is images


def test_a_compiler_is_needed(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"engine=compiled: no C\+\+ compiler: install"):
        Compiled().wrap(request(), small())
    assert "engine=compiled: no " in Compiled().unavailable(torch.device("cuda"))
    assert Compiled(backend="eager").unavailable(CPU) is None


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_inductor_compiles_the_network():
    network = small()
    asked = EngineRequest(32, 5, "fp32", 2, 2, CPU)
    engine = Compiled().wrap(asked, network)
    torch.testing.assert_close(engine(pictures(2)), expected(network, pictures(2)))
