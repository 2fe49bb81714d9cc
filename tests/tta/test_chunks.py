import pytest
import torch

from gpuopt.errors import InputError
from gpuopt.tta import chunks as chunks_module
from gpuopt.tta import parse_views
from gpuopt.tta.chunks import ViewChunks, _pieces

VIEWS = parse_views([{}, {"rotate": 90}, {"brightness": 1.3}])


def pictures(samples=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (samples, 3, 8, 8), generator=generator).byte()


def model(scale):
    return lambda images: images.mean((2, 3)) * scale


def collected(chunks, images):
    got = {}

    def receive(view, first_sample, log_probabilities):
        for number, said in enumerate(log_probabilities):
            for row, values in enumerate(said, first_sample):
                assert (number, view, row) not in got, "told twice"
                got[number, view, row] = values
        assert not torch.is_grad_enabled()

    chunks.run(images, receive)
    return got


def test_every_model_says_something_of_every_pair_once():
    images = pictures()
    got = collected(ViewChunks([model(0.1), model(-0.2)], VIEWS, chunk_size=4), images)
    assert set(got) == {(m, v, s) for m in range(2) for v in range(3) for s in range(5)}
    expected = model(-0.2)(images.float()).log_softmax(1)
    assert torch.allclose(torch.stack([got[1, 0, s] for s in range(5)]), expected, atol=1e-5)


def test_views_are_made_once_for_all_models(monkeypatch):
    made, original = [], chunks_module.apply_view

    def count(view, images):
        made.append(len(images))
        return original(view, images)

    monkeypatch.setattr(chunks_module, "apply_view", count)
    collected(ViewChunks([model(0.1)] * 3, VIEWS, chunk_size=4), pictures())
    assert sum(made) == 3 * 5


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("injected"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["pytorch", "cudnn", "cublas"],
)
def test_memory_that_runs_out_in_a_later_model_repeats_the_chunk_for_all(error):
    sizes = []

    def crowded(images):
        sizes.append(len(images))
        if len(images) > 2:
            raise error
        return model(0.2)(images)

    chunks = ViewChunks([model(0.1), crowded], VIEWS, chunk_size=4)
    images = pictures()
    got = collected(chunks, images)
    assert sizes == [4] + [2] * 8
    assert chunks.chunk_size == 2
    whole = collected(ViewChunks([model(0.1), model(0.2)], VIEWS, chunk_size=4), images)
    assert all(torch.allclose(got[key], whole[key], atol=1e-6) for key in whole)


def test_another_error_is_not_taken_for_want_of_memory():
    def broken(images):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        collected(ViewChunks([broken], VIEWS), pictures())


def test_a_class_that_is_ruled_out_stays_a_number():
    def certain(images):
        return torch.tensor([[0.0, -torch.inf, 1.0]]).repeat(len(images), 1)

    got = collected(ViewChunks([certain], VIEWS), pictures())
    assert all(said[1] == -10_000 for said in got.values())


@pytest.mark.parametrize(
    ("forwards", "views", "options"),
    [((), VIEWS, {}), ((len,), (), {}), ((len,), VIEWS, {"chunk_size": 0})],
)
def test_nothing_to_do_is_refused(forwards, views, options):
    with pytest.raises(InputError, match="at least"):
        ViewChunks(forwards, views, **options)


def test_pieces_cover_every_pair_once_in_order():
    for samples in (1, 3, 7):
        for chunk in (1, 2, 5, 40):
            pairs = []
            for start in range(0, samples * 4, chunk):
                offsets = 0
                for view, first, last, offset in _pieces(
                    start, min(start + chunk, samples * 4), samples
                ):
                    assert offset == offsets
                    offsets += last - first
                    pairs += [(view, sample) for sample in range(first, last)]
            assert pairs == [(view, sample) for view in range(4) for sample in range(samples)]
