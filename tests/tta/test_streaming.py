import gc
import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from gpuopt.errors import FaultError
from gpuopt.tta import (
    LastPass,
    PredictionFile,
    TtaPredictor,
    parse_views,
    predict_loader,
    stream_pass,
)
from gpuopt.tta.streaming import _delayed
from tests.tta.test_predictions import VIEWS, Batch, batches, forward

SIZES = [4, 4, 4, 3]


def model(number):
    weights = torch.randn(6, 6, generator=torch.Generator().manual_seed(number))
    return lambda images: forward(images) @ weights


@pytest.fixture
def files(tmp_path):
    """Makes files, or opens them again; closed after the test."""
    opened = []

    def open_file(name, header=None):
        opened.append(PredictionFile(tmp_path / name, header))
        return opened[-1]

    yield open_file
    for file in opened:
        file.close()


def streamed(files, name, models, groups, *, finish=None):
    """Predict in passes; returns the probabilities, float32 [n, classes]."""
    earlier = None
    for number, group in enumerate(groups):
        file = files(f"{name}{number}", {})
        stream_pass(
            batches(SIZES),
            TtaPredictor([models[place] for place in group], VIEWS, chunk_size=4),
            file,
            earlier=earlier,
            last=LastPass(len(models), finish) if group is groups[-1] else None,
        )
        earlier = file
    return np.concatenate([block.probabilities for block in earlier.blocks()])


def test_one_model_is_what_the_predictor_says_to_the_bit(files):
    expected = predict_loader(batches(SIZES), TtaPredictor(forward, VIEWS, chunk_size=4))
    file, counted = files("p", {}), []
    predictor = TtaPredictor(forward, VIEWS, chunk_size=4)
    stream_pass(batches(SIZES), predictor, file, last=LastPass(1), on_batch=counted.append)
    assert counted == SIZES
    blocks = list(file.blocks())
    for name in ("ids", "targets", "probabilities"):
        found = np.concatenate([getattr(block, name) for block in blocks])
        assert np.array_equal(found, getattr(expected, name))
    assert {block.chunk_size for block in blocks} == {4}


@pytest.mark.parametrize(
    "groups",
    [
        [[0], [1], [2], [3], [4]],
        [[0, 1], [2, 3], [4]],
        [[0, 1, 2], [3, 4]],
    ],
    ids=["one", "two", "three"],
)
def test_however_models_are_dealt_into_passes_no_bit_changes(files, groups):
    models = [model(number) for number in range(5)]
    together = streamed(files, "all", models, [[0, 1, 2, 3, 4]])
    assert np.array_equal(streamed(files, "p", models, groups), together)
    own = [streamed(files, f"m{number}", [models[number]], [[0]]) for number in range(5)]
    np.testing.assert_allclose(together, np.mean(own, axis=0, dtype=np.float64), atol=1e-6)
    assert not np.allclose(own[0], own[1], atol=1e-2)


def test_the_mean_of_all_passes_is_finished_once_per_batch(files):
    seen = []

    def finish(probabilities):
        seen.append(probabilities.sum(1))
        return (probabilities.log() / 2).softmax(1)

    models = [model(0), model(1)]
    plain = streamed(files, "plain", models, [[0, 1]])
    finished = streamed(files, "finished", models, [[0], [1]], finish=finish)
    assert [len(sums) for sums in seen] == SIZES
    assert torch.allclose(torch.cat(seen), torch.ones(15), atol=1e-5)
    expected = np.sqrt(plain) / np.sqrt(plain).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(finished, expected, atol=1e-6)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_cut_short_anywhere_it_goes_on_to_the_same_bits(files, at, second):
    models = [model(0), model(1)]
    whole = streamed(files, "whole", models, [[0], [1]])
    calls = itertools.count()

    def stopping(images):
        if next(calls) == 3 * at + 1:  # in the middle of a batch: three chunks each
            raise Stopped
        return models[int(second)](images)

    earlier = None
    if second:
        earlier = files("first", {})
        stream_pass(batches(SIZES), TtaPredictor(models[0], VIEWS, chunk_size=4), earlier)
    last = LastPass(2) if second else None
    file = files("p", {})
    predictor = TtaPredictor(stopping, VIEWS, chunk_size=4)
    with pytest.raises(Stopped):
        stream_pass(batches(SIZES), predictor, file, earlier=earlier, last=last)
    file.close()
    file = files("p")
    assert file.batches == at
    rest = itertools.islice(batches(SIZES), at, None)
    predictor = TtaPredictor(models[int(second)], VIEWS, chunk_size=4)
    stream_pass(rest, predictor, file, earlier=earlier, last=last)
    if not second:
        earlier, file = file, files("last", {})
        predictor = TtaPredictor(models[1], VIEWS, chunk_size=4)
        stream_pass(batches(SIZES), predictor, file, earlier=earlier, last=LastPass(2))
    found = np.concatenate([block.probabilities for block in file.blocks()])
    assert np.array_equal(found, whole)


def tensor_bytes():
    """What living tensors take, which Python's own count does not see."""
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_host_memory_does_not_grow_with_the_images(files, tmp_path):
    """Ten times the batches: the same peak, though each leaves a quarter of a megabyte on disk."""
    classes, samples = 1000, 64

    def loader(count):
        images = torch.zeros(samples, 3, 4, 4, dtype=torch.uint8)
        for number in range(count):
            ids = torch.arange(number * samples, (number + 1) * samples)
            yield Batch(images, torch.zeros(samples, dtype=torch.int64), ids, torch.ones(samples))

    def peak_bytes(count):
        file = files(f"{count}", {})
        predictor = TtaPredictor(lambda chunk: torch.zeros(len(chunk), classes), VIEWS)
        before, tensors = tensor_bytes(), []
        tracemalloc.start()
        stream_pass(
            loader(count),
            predictor,
            file,
            last=LastPass(1),
            on_batch=lambda _: tensors.append(tensor_bytes() - before),
        )
        read = sum(len(block.ids) for block in file.blocks())
        peak = tracemalloc.get_traced_memory()[1] + max(tensors)
        tracemalloc.stop()
        assert read == count * samples
        assert (tmp_path / f"{count}").stat().st_size > count * samples * classes * 4
        return peak

    gc.freeze()  # what other tests left is not looked at, batch by batch
    peak_bytes(2)
    few, many = peak_bytes(4), peak_bytes(40)
    assert few > samples * classes * 4  # a block is seen
    assert many < few + samples * classes * 2


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_a_delay_changes_when_items_come_and_nothing_else(count):
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    seen = [(item, len(made)) for item in _delayed(items(), count)]
    assert seen == [(number, min(5, number + 1 + count)) for number in range(5)]


@pytest.mark.gpu
def test_on_a_gpu_every_batch_is_kept_in_order(files):
    heavy = torch.nn.Conv2d(3, 64, 3, padding=1).cuda()  # so that the host is ahead

    def slow(images):
        for _ in range(20):
            heavy(images.repeat(64, 1, 4, 4))
        return forward(images)

    sizes = [4, 4, 3] * 5
    views = parse_views([{}, {"rotate": 90}])
    file = files("p", {})
    predictor = TtaPredictor(slow, views, device="cuda", chunk_size=4)
    with torch.inference_mode():
        stream_pass(batches(sizes), predictor, file, last=LastPass(1))
    expected = predict_loader(batches(sizes), TtaPredictor(forward, views, device="cuda"))
    blocks = list(file.blocks())
    assert np.array_equal(np.concatenate([block.ids for block in blocks]), expected.ids)
    found = np.concatenate([block.probabilities for block in blocks])
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)


@pytest.mark.parametrize("finish", [None, lambda _: pytest.fail("finished")])
def test_outputs_that_are_not_finite_are_a_fault_and_leave_no_block(files, finish):
    file = files("p", {})
    predictor = TtaPredictor(lambda images: forward(images) * torch.nan, VIEWS)
    with pytest.raises(FaultError, match="4 of 4 images"):
        stream_pass(batches([4]), predictor, file, last=LastPass(1, finish))
    assert file.batches == 0


def test_padding_is_dropped_and_a_batch_of_it_counts(files):
    file = files("p", {})
    predictor = TtaPredictor(forward, parse_views([{}]))
    stream_pass(batches([3, 2], padding=[0, 1]), predictor, file, last=LastPass(1))
    assert (file.batches, file.samples) == (2, 3)
