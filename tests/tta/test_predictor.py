import contextlib
import functools
import gc
import math
import textwrap

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from gpuopt.errors import FaultError, InputError
from gpuopt.tta import TtaPredictor, apply_view, parse_views

FIVE = parse_views([{}, {"rotate": 90}, {"rotate": 180}, {"rotate": 270}, {"brightness": 1.3}])
MIXED = parse_views([{}, {"rotate": 7}, {"equalize": 0.5, "weight": 3}, {"noise": 8}, {"blur": 1}])


class Net(nn.Module):
    """A small float32 network that counts how it is called."""

    def __init__(self, classes=7):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(8 * 16, classes),
        )
        self.shapes = []

    def forward(self, images):
        assert images.dtype == torch.float32
        assert not torch.is_grad_enabled()
        self.shapes.append(tuple(images.shape))
        return 30 * self.layers(images / 255 - 0.5)


def pictures(samples=6, size=16):
    return torch.randint(
        0, 256, (samples, 3, size, size), generator=torch.Generator().manual_seed(1)
    ).byte()


def naive(net, views, images, merge="mean"):
    """All views at once, in fp64."""
    with torch.no_grad():
        stacked = torch.stack([net(apply_view(view, images)) for view in views]).double()
    weights = torch.tensor([view.weight for view in views]).double()[:, None, None]
    weights /= weights.sum()
    if merge == "mean":
        return (weights * stacked.softmax(-1)).sum(0)
    return (weights * stacked.log_softmax(-1)).sum(0).softmax(-1)


@pytest.mark.parametrize("merge", ["mean", "geometric"])
@pytest.mark.parametrize("views", [FIVE, MIXED], ids=["five", "weighted"])
@pytest.mark.parametrize("chunk_size", [1, 2, 4, 5, 6, 29, 30, 31, 100, "auto"])
def test_any_chunk_size_gives_the_merge_of_all_views(chunk_size, views, merge):
    net, images = Net(), pictures()
    predictor = TtaPredictor(net, views, chunk_size=chunk_size, merge=merge)
    result = predictor(images)
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), naive(net, views, images, merge), atol=1e-5, rtol=0)
    assert torch.allclose(result.sum(1), torch.ones(6), atol=1e-5)
    assert torch.equal(result, predictor(images))


@pytest.mark.parametrize("views", [FIVE, MIXED], ids=["five", "weighted"])
@pytest.mark.parametrize("merge", ["mean", "geometric"])
def test_in_half_precision_the_chunk_size_changes_less_than_a_thousandth(views, merge):
    net, images = Net(), pictures()

    def predicted(chunk_size):
        autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
        predictor = TtaPredictor(net, views, chunk_size=chunk_size, merge=merge, autocast=autocast)
        result = predictor(images)
        assert torch.equal(result, predictor(images))
        return result

    whole = predicted(30)
    assert not torch.allclose(whole.double(), naive(net, views, images, merge), atol=1e-4)
    for chunk_size in (1, 2, 4, 5, 29, 31, 100):
        assert torch.allclose(predicted(chunk_size), whole, atol=1e-3, rtol=0)


def test_mean_and_geometric_differ():
    net, images = Net(), pictures()
    mean = TtaPredictor(net, FIVE)(images)
    assert not torch.allclose(mean, TtaPredictor(net, FIVE, merge="geometric")(images), atol=1e-3)


def test_weights_count():
    net, images = Net(), pictures()
    equal = parse_views([{}, {"rotate": 90}])
    heavy = parse_views([{}, {"rotate": 90, "weight": 9}])
    turned = TtaPredictor(net, parse_views([{"rotate": 90}]))(images)
    plain = TtaPredictor(net, parse_views([{}]))(images)
    assert torch.allclose(TtaPredictor(net, equal)(images), (plain + turned) / 2, atol=1e-6)
    assert torch.allclose(TtaPredictor(net, heavy)(images), 0.1 * plain + 0.9 * turned, atol=1e-6)


def test_the_model_sees_full_chunks_of_one_shape_only():
    net = Net()
    predictor = TtaPredictor(net, FIVE, chunk_size=8)
    predictor(pictures(6))
    assert net.shapes == [(8, 3, 16, 16)] * math.ceil(6 * 5 / 8)
    predictor(pictures(3))
    assert set(net.shapes) == {(8, 3, 16, 16)}


def test_auto_takes_the_first_batch_and_keeps_it():
    net = Net()
    predictor = TtaPredictor(net, FIVE)
    assert predictor.chunk_size is None
    predictor(pictures(6))
    predictor(pictures(2))
    assert predictor.chunk_size == 6
    assert {shape[0] for shape in net.shapes} == {6}
    assert len(net.shapes) == 5 + 2


def test_several_models_are_averaged_after_their_views_are_merged():
    torch.manual_seed(3)
    nets, images = [Net(), Net()], pictures()
    nets[1].layers[0].weight.data.normal_()
    for merge in ("mean", "geometric"):
        predictor = TtaPredictor(nets, MIXED, chunk_size=4, merge=merge)
        alone = [TtaPredictor(net, MIXED, chunk_size=4, merge=merge)(images) for net in nets]
        assert not torch.allclose(alone[0], alone[1], atol=1e-2)
        assert all(map(torch.equal, predictor.of_each_model(images), alone))
        assert torch.equal(predictor(images), (alone[0] + alone[1]) / 2)
        kept = TtaPredictor(nn.ModuleList(nets), MIXED, chunk_size=4, merge=merge)
        assert torch.equal(kept(images), predictor(images))
    both, plain = TtaPredictor(nets, FIVE).with_single_view(images)
    first = [TtaPredictor(net, FIVE[:1])(images) for net in nets]
    assert torch.allclose(plain, (first[0] + first[1]) / 2, atol=1e-6)
    assert torch.equal(both, TtaPredictor(nets, FIVE)(images))


def test_any_module_is_predicted_with_as_its_docstring_shows():
    """Anyone's Lightning project: a module with its own normalisation, and no Hydra."""

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))

        def forward(self, images):
            return self.net(images / 255)

    code = textwrap.dedent(TtaPredictor.__doc__.partition("any module:\n")[2].partition("Args:")[0])
    names = {"parse_views": parse_views, "TtaPredictor": TtaPredictor}
    names |= {"module": Module(), "images": pictures()}
    exec(code, names)
    assert names["probabilities"].shape == (6, 3)
    assert torch.allclose(names["probabilities"].sum(1), torch.ones(6))


def alive_image_batches():
    gc.collect()
    # By type, not isinstance, which would wake the deprecated proxies that torch keeps.
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    return [tensor for tensor in tensors if tensor.ndim == 4]


def test_memory_does_not_grow_with_the_number_of_views():
    """No forward finds more image memory alive than one chunk and the batch itself."""

    def most_alive_bytes(views):
        images = pictures(8, 32)
        peaks = []

        def forward(chunk):
            storages = [tensor.untyped_storage() for tensor in alive_image_batches()]
            sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
            peaks.append(sum(sizes.values()))
            return chunk.mean((2, 3))

        TtaPredictor(forward, views, chunk_size=8)(images)
        return max(peaks)

    gc.freeze()  # what other tests left is neither counted nor looked at, forward by forward
    many = parse_views([{}] + [{"rotate": angle} for angle in range(1, 40)])
    assert most_alive_bytes(many) == most_alive_bytes(many[:1])


def test_the_single_view_comes_from_the_same_pass():
    net, images = Net(), pictures()
    predictor = TtaPredictor(net, FIVE, chunk_size=4)
    merged, single = predictor.with_single_view(images)
    assert len(net.shapes) == math.ceil(30 / 4)
    assert torch.equal(merged, predictor(images))
    plain = TtaPredictor(net, FIVE[:1], chunk_size=4)(images)
    assert torch.allclose(single, plain, atol=1e-6)


def test_the_single_view_needs_the_identity_first():
    predictor = TtaPredictor(Net(), FIVE[1:])
    with pytest.raises(InputError, match="rotate 90"):
        predictor.with_single_view(pictures())


class Crowded:
    """A model on a device whose memory holds a limited number of images."""

    def __init__(self, net, room):
        self.net = net
        self.room = room
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return self.net(images)


def test_running_out_of_memory_halves_the_chunk_and_changes_nothing(caplog):
    net, images = Net(), pictures()
    crowded = Crowded(net, room=3)
    predictor = TtaPredictor(crowded, FIVE, chunk_size=13)
    merged, single = predictor.with_single_view(images)
    assert crowded.sizes == [13, 6] + [3] * 10
    assert predictor.chunk_size == 3
    assert torch.allclose(merged.double(), naive(net, FIVE, images), atol=1e-5, rtol=0)
    assert torch.allclose(single.double(), naive(net, FIVE[:1], images), atol=1e-5, rtol=0)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "tta.chunk_size=3" in caplog.records[1].getMessage()


def test_running_out_of_memory_in_mid_batch_repeats_only_that_chunk():
    net, images = Net(), pictures()
    crowded = Crowded(net, room=8)
    predictor = TtaPredictor(crowded, FIVE, chunk_size=8)

    def shrinking(chunk):
        if len(crowded.sizes) == 2:
            crowded.room = 4
        return crowded(chunk)

    predictor = TtaPredictor(shrinking, FIVE, chunk_size=8)
    result = predictor(images)
    assert crowded.sizes == [8, 8, 8, 4, 4, 4, 4]
    assert torch.allclose(result.double(), naive(net, FIVE, images), atol=1e-5, rtol=0)


def test_no_tensor_of_a_failed_attempt_is_alive_when_the_next_one_starts():
    alive = []
    failed = []

    def count():
        return sum(len(tensor) == 8 for tensor in alive_image_batches())

    before = count()  # filters of networks that other tests left behind have this shape as well

    def forward(chunk):
        alive.append(count() - before)
        if len(chunk) == 8:
            failed.append(True)
            raise torch.OutOfMemoryError("injected")
        return chunk.mean((2, 3))

    TtaPredictor(forward, FIVE, chunk_size=8)(pictures(6))
    assert failed == [True]
    assert alive[0] == 1
    assert set(alive[1:]) == {0}


def test_one_image_that_does_not_fit_is_a_fault():
    predictor = TtaPredictor(Crowded(Net(), room=0), FIVE, chunk_size=4)
    with pytest.raises(FaultError, match="one image of 16x16") as error:
        predictor(pictures())
    assert error.value.__context__ is None


def test_other_errors_pass_through():
    def broken(images):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        TtaPredictor(broken, FIVE)(pictures())


def test_half_precision_logits_are_merged_in_fp32_inside_the_given_autocast():
    entered = []

    @contextlib.contextmanager
    def autocast():
        entered.append(True)
        with torch.autocast("cpu", torch.bfloat16):
            yield

    net, images = Net(), pictures()
    dtypes = []

    def forward(chunk):
        logits = net(chunk)
        dtypes.append(logits.dtype)
        return logits

    result = TtaPredictor(forward, FIVE, chunk_size=8, autocast=autocast)(images)
    assert set(dtypes) == {torch.bfloat16}
    assert len(entered) == 4
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), naive(net, FIVE, images), atol=0.1)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 8, 9), (3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match="images must be"):
        TtaPredictor(Net(), FIVE)(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("views", "options"), [((), {}), (FIVE, {"chunk_size": 0}), (FIVE, {"merge": "max"})]
)
def test_bad_options_are_refused(views, options):
    with pytest.raises(InputError):
        TtaPredictor(Net(), views, **options)


@pytest.mark.gpu
def test_on_a_gpu_fifteen_views_take_the_memory_of_one():
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).cuda()
    images = pictures(32, 128)
    many = parse_views([{}] + [{"rotate": 6 * angle} for angle in range(1, 15)])
    peaks = {}
    for views in (many[:1], many):
        predictor = TtaPredictor(net, views, device="cuda")
        predictor(images)
        torch.cuda.reset_peak_memory_stats()
        first = predictor(images)
        peaks[len(views)] = torch.cuda.max_memory_allocated()
        assert torch.equal(first, predictor(images))
    assert peaks[15] <= 1.05 * peaks[1]
