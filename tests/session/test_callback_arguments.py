from types import SimpleNamespace

from gpuopt.hardware import Gpu
from gpuopt.measure.roofline import forward_flops
from gpuopt.session.callback_arguments import callback_arguments
from gpuopt.session.plan import Plan

CARD = Gpu(name="card", memory_mib=8192, tensor_tflops=50.0)


def arguments(accelerator="cuda", model_name="test_vit", image_size=160):
    plan = Plan(accelerator, CARD, "bf16", image_size, 256, 57, 1, ())
    data = SimpleNamespace(micro_batch_size=57, sample_batch=None)
    return callback_arguments(plan, data, None, model_name)["gpu_stats"]


def test_the_share_of_the_peak_is_that_of_the_plans_card_model_and_format():
    known = arguments()
    assert known["card"] is CARD
    assert known["precision"] == "bf16"
    assert known["forward_flops"] == forward_flops("test_vit", 160) > 0


def test_on_a_cpu_there_is_no_peak_and_nothing_is_counted():
    assert arguments("cpu", model_name="no such model") == {}


def test_a_model_that_timm_builds_for_another_size_is_counted_in_the_first_batch():
    known = arguments(model_name="vit_tiny_patch16_224", image_size=96)
    assert known == {"card": CARD, "precision": "bf16"}
