import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gpuopt.errors import FaultError
from gpuopt.hardware import load_catalogue
from gpuopt.schema import CONF_DIR
from gpuopt.session import tta_timing
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.tta_timing import PassTimer, _design, kept_tta_time, measure_tta_time
from gpuopt.session.view_passes import HeldOutPart
from gpuopt.session.weights import ModelDescription
from gpuopt.storage import AnswerCache
from gpuopt.tta import parse_views, stream_pass
from gpuopt.tta.time_model import TimedPass

CPU = load_catalogue(CONF_DIR / "gpu")["cpu"]
SETUP = PredictionSetup("cpu", CPU, "fp32", 32, 0, ())
VIEWS = parse_views(
    [{}, {"rotate": 90}, {"rotate": 180}, {"noise": 8}, {"blur": 1}, {"hflip": True}]
)
DESCRIPTION = ModelDescription("test_vit", ("a", "b"), 32, (1.0,) * 3, (1.0,) * 3)


class FakeTimer:
    """Predictions on a device of a given speed."""

    setup = SETUP
    chunk_size = 32

    def __init__(self, chunk_s=0.05):
        self.chunk_s = chunk_s
        self.passes = []

    def __call__(self, images, views):
        self.passes.append((images, len(views)))
        seconds = 0.2 + images * 1e-3 + images * len(views) * self.chunk_s / 32
        first = 3.0 if len(self.passes) == 1 else 0.0  # the first one warms up
        return TimedPass(images, views, seconds + first)

    def view_seconds(self, view):
        return 0.0

    def decode_seconds(self):
        return 0.007


def test_the_parts_are_found_and_the_warm_up_is_part_of_the_start():
    timer = FakeTimer()
    time = measure_tta_time(timer, VIEWS, startup_s=4.0)
    assert time.startup_s == pytest.approx(4 + 3)
    assert time.overhead_s == pytest.approx(0.2)
    assert time.image_s == pytest.approx(1e-3)
    assert time.forward_s == pytest.approx(0.05 / 32)
    assert (time.decode_s, time.chunk_size, time.evidence) == (0.007, 32, "measured")
    assert set(time.view_s) == {view.name for view in VIEWS}
    sizes = {images for images, _ in timer.passes[3:]}
    assert len(sizes) == 2
    assert {views for _, views in timer.passes} == {1, 5}


def test_without_another_view_one_is_timed_to_tell_what_a_view_costs():
    timer = FakeTimer()
    time = measure_tta_time(timer, VIEWS[:1])
    assert time.forward_s == pytest.approx(0.05 / 32)
    assert set(time.view_s) == {"identity", "hflip"}
    assert {views for _, views in timer.passes} == {1, 2}


@pytest.mark.parametrize("chunk_s", [1e-5, 0.02, 0.3, 40.0])
def test_passes_fill_the_budget_and_on_a_slow_device_are_few(chunk_s):
    passes = list(_design(32, VIEWS[:1], VIEWS[:5], chunk_s, 15.0))
    chunks = sum(images // 32 * len(views) for _, images, views in passes)
    assert chunks * chunk_s <= max(3 * 15.0, 9 * chunk_s)
    assert len({images for _, images, _ in passes}) == 2
    assert len({len(views) for *_, views in passes}) == 2
    turns = [turn for turn, *_ in passes]
    assert turns == sorted(turns)


def test_a_real_pass_predicts_as_many_images_as_asked_for(monkeypatch):
    from gpuopt.data import Digits
    from gpuopt.model import Classifier

    data = Digits(image_size=32, micro_batch_size=32, global_batch_size=32)
    seen = []

    class Counting(Classifier):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    files = []

    def stream(loader, predictor, file, **options):
        stream_pass(loader, predictor, file, **options)
        files.append((file.samples, file.batches))

    monkeypatch.setattr(tta_timing, "stream_pass", stream)
    model = Counting("test_efficientnet", 10).eval()
    timer = PassTimer(model, data, SETUP, 20)
    timed = timer(700, VIEWS[:2])  # more than there are
    assert data.validation_size < 700
    assert sum(seen) >= 1400
    assert set(seen) == {20}
    assert files == [(700, 22)]  # as predict has it: what a card does meanwhile is hidden
    assert (timed.images, len(timed.views)) == (700, 2)
    assert timed.seconds > 0
    assert timer.view_seconds(VIEWS[4]) > 0
    assert timer.decode_seconds() == 0.0  # digits lie in memory


def test_what_was_measured_is_kept_for_the_same_device(monkeypatch, tmp_path):
    monkeypatch.setattr(tta_timing, "load_part", lambda part, description: Movable())
    monkeypatch.setattr(tta_timing, "PassTimer", lambda *_: FakeTimer())
    monkeypatch.setattr(tta_timing, "digest_of_images", lambda data: data.digest)
    monkeypatch.setattr(tta_timing, "processor_name", lambda: "a CPU")

    class Movable:
        def to(self, device):
            return self

    cache = AnswerCache(tmp_path)
    plain = SimpleNamespace(digest="d", cache="auto", cache_limit_gib=4.0)

    def kept(setup=SETUP, views=VIEWS, chunk=32, **changed):
        part = HeldOutPart(tmp_path / "a.ckpt", SimpleNamespace(**{**vars(plain), **changed}))
        return kept_tta_time(
            part, DESCRIPTION, setup, views, cache, chunk_size=chunk, startup_s=1.0
        )

    first = kept()
    monkeypatch.setattr(tta_timing, "load_part", lambda *_: pytest.fail("measured again"))
    assert kept() == first
    assert json.loads(json.dumps(first.as_dict())) == first.as_dict()
    others = ((replace(SETUP, batch_size=16), VIEWS, 32), (SETUP, VIEWS[:5], 32), (SETUP, VIEWS, 8))
    for other in others:
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            kept(*other)
    for change in ({"digest": "e"}, {"cache": "off"}, {"cache_limit_gib": 0.0}):
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            kept(**change)
    monkeypatch.setattr(tta_timing, "processor_name", lambda: "another CPU")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        kept()


def test_a_model_that_does_not_fit_is_told_in_words(monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tta_timing, "load_part", full)
    monkeypatch.setattr(tta_timing, "digest_of_images", lambda _: "d")
    part = HeldOutPart(tmp_path / "a.ckpt", SimpleNamespace(cache="off", cache_limit_gib=4.0))
    with pytest.raises(FaultError, match="memory"):
        kept_tta_time(
            *(part, DESCRIPTION, SETUP, VIEWS, AnswerCache(tmp_path)), chunk_size=8, startup_s=1.0
        )
