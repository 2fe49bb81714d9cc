import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, load_catalogue
from gpuopt.schema import CONF_DIR
from gpuopt.session.tta_forecast import forecast_tta_time
from gpuopt.tta import parse_views

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
VIEWS = parse_views([{}, {"rotate": 90}, {"rotate": 180}])


def forecast(stem, model="test_vit", size=64, **options):
    return forecast_tta_time(model, size, CATALOGUE[stem], **options)


def test_a_prediction_says_that_it_is_one_and_how_far_it_may_be_off():
    time = forecast("rtx3060")
    assert time.evidence == "predicted"
    assert "RTX 3060 12GB in bf16" in time.reason
    found = time.seconds(100_000_000, VIEWS)
    assert (found.low / found.value, found.high / found.value) == pytest.approx((0.73, 1.3), 0.01)


def test_a_faster_card_takes_less_and_views_and_models_cost_in_proportion():
    slow, fast = forecast("rtx3060"), forecast("h100")
    assert fast.forward_s < slow.forward_s / 4
    one, three, of_two = (
        slow.seconds(10**6, views, models=models).value - slow.startup_s
        for views, models in ((VIEWS[:1], 1), (VIEWS, 1), (VIEWS, 2))
    )
    assert (three / one, of_two / three) == pytest.approx((3, 2))


def test_published_speeds_lie_within_what_is_said():
    # timm's infer results, RTX 3090, AMP channels_last, PyTorch 2.4.
    for model, size, per_second in (("resnet50", 224, 3730), ("efficientnet_b0", 224, 8241)):
        time = forecast("rtx3090", model, size, precision="fp16")
        measured_s = 1 / per_second
        assert time.low_ratio * 0.9 < measured_s / time.forward_s < time.high_ratio * 1.1


def test_the_chunk_is_what_fits_or_what_was_asked_for():
    assert forecast("rtx3060").chunk_size == 256
    assert forecast("rtx3060", batch_size=7).chunk_size == 7
    small = Gpu(**{**vars(CATALOGUE["rtx3060"]), "memory_limit_mib": 1400})
    fits = forecast_tta_time("test_vit", 256, small).chunk_size
    assert fits < 256
    assert forecast_tta_time("test_vit", 256, small, batch_size=4096).chunk_size == fits
    tiny = Gpu(**{**vars(CATALOGUE["rtx3060"]), "memory_limit_mib": 400})
    with pytest.raises(InputError, match="not one sample fits"):
        forecast_tta_time("test_vit", 256, tiny, batch_size=8)


def test_what_cannot_be_predicted_is_refused():
    with pytest.raises(InputError, match="peak rates are unknown"):
        forecast_tta_time("test_vit", 64, Gpu(name="mine", memory_mib=8192, precision="fp32"))
    with pytest.raises(InputError, match="precision=bf16"):
        forecast("t4", precision="bf16")
