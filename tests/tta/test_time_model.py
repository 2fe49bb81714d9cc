import numpy as np
import pytest

from gpuopt.errors import InputError
from gpuopt.tta import parse_views
from gpuopt.tta.time_model import TimedPass, fit_tta_time

VIEWS = parse_views([{}, {"rotate": 90}, {"rotate": 180}, {"noise": 8}, {"blur": 1}])
VIEW_S = {"identity": 1e-5, "rotate 90": 2e-5, "rotate 180": 2e-5, "noise 8": 4e-3, "blur 1": 1e-3}


def true_seconds(images, views, noise=1.0):
    making = sum(VIEW_S[view.name] for view in views)
    return (0.3 + images * (2e-3 + making + len(views) * 5e-3)) * noise


def fitted(noises=(1.0,), **options):
    passes = [
        TimedPass(images, VIEWS[:views], true_seconds(images, VIEWS[:views], noise), turn)
        for turn, noise in enumerate(noises)
        for images in (64, 256)
        for views in (1, 4)
    ]
    return fit_tta_time(passes, VIEW_S, chunk_size=32, reason="here", **options)


@pytest.mark.parametrize(("images", "views"), [(3140, 5), (50_000, 2), (128, 3)])
def test_sizes_and_views_that_were_not_timed_are_predicted(images, views):
    found = fitted().seconds(images, VIEWS[:views])
    assert found.value == pytest.approx(true_seconds(images, VIEWS[:views]), rel=1e-6)
    assert found.low == pytest.approx(found.value)


def test_models_decoding_and_the_start_add_up():
    time = fitted(decode_s=0.01, startup_s=5.0)
    plain = time.seconds(1000, VIEWS[:2])
    assert plain.value == pytest.approx(5 + true_seconds(1000, VIEWS[:2]))
    assert time.seconds(1000, VIEWS[:2], is_decoded=False).value == pytest.approx(10 + plain.value)
    three = time.seconds(1000, VIEWS[:2], models=3)  # which share the views
    assert three.value == pytest.approx(plain.value + 2 * 1000 * 2 * 5e-3)
    again = time.seconds(1000, VIEWS[:2], models=3, passes=2)
    assert again.value - three.value == pytest.approx(
        0.3 + 1000 * (2e-3 + VIEW_S["identity"] + VIEW_S["rotate 90"])
    )
    assert time.minutes(1000, VIEWS[:2]).value == pytest.approx(plain.value / 60)


def test_turns_that_scatter_widen_the_range_around_every_prediction():
    found = fitted((0.9, 1.0, 1.1)).seconds(1000, VIEWS)
    assert found.low < found.value < found.high
    assert found.high / found.value == pytest.approx(1.1, abs=0.03)
    assert found.low / found.value == pytest.approx(0.9, abs=0.03)


def test_one_disturbed_pass_moves_nothing():
    passes = [
        TimedPass(images, VIEWS[:views], true_seconds(images, VIEWS[:views]), turn)
        for turn in range(3)
        for images in (64, 256)
        for views in (1, 4)
    ]
    passes[5] = passes[5]._replace(seconds=30 * passes[5].seconds)
    found = fit_tta_time(passes, VIEW_S, chunk_size=1, reason="").seconds(1000, VIEWS)
    assert found.value == pytest.approx(true_seconds(1000, VIEWS))
    assert found.high > found.value


def test_the_start_is_known_and_does_not_scatter():
    found = fitted((0.9, 1.0, 1.1), startup_s=100.0).seconds(64, VIEWS[:1])
    assert found.high < 101


def test_what_is_lost_in_noise_is_taken_to_grow_with_the_views():
    passes = [TimedPass(n, VIEWS[:v], 1.0) for n in (8, 32) for v in (1, 3)]
    time = fit_tta_time(passes, {}, chunk_size=8, reason="")
    assert time.forward_s > 0


def test_no_part_is_negative_whatever_was_timed():
    rng = np.random.default_rng(0)
    for _ in range(20):
        passes = [
            TimedPass(images, VIEWS[:views], float(rng.uniform(0.1, 1)))
            for images in (8, 32)
            for views in (1, 3)
        ]
        time = fit_tta_time(passes, VIEW_S, chunk_size=8, reason="")
        assert min(time.overhead_s, time.image_s, time.forward_s) >= 0


def test_passes_that_tell_nothing_apart_are_refused():
    same = [TimedPass(64, VIEWS[:1], 1.0), TimedPass(64, VIEWS, 2.0)]
    with pytest.raises(InputError, match="two sizes and two numbers of views"):
        fit_tta_time(same, {}, chunk_size=1, reason="")
