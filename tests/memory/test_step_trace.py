import pytest
import torch

from gpuopt.data import Augmentation
from gpuopt.data.augmentation import AUGMENTATION_UNIFORMS
from gpuopt.data.batch import Batch
from gpuopt.data.mixing import mix_batch
from gpuopt.memory import MemorySetup
from gpuopt.memory.live_bytes import LiveBytes
from gpuopt.memory.meta_model import MetaModel
from gpuopt.memory.step_trace import follow_step, step_lines

# The last two are named nowhere else: convolutions with attention, and a net of its own kind.
MODELS = {
    "convnext": MemorySetup("convnext_nano", 224, "bf16"),
    "checkpointed": MemorySetup("convnext_nano", 224, "bf16", checkpointing="full"),
    "some stages": MemorySetup("convnext_nano", 224, "bf16", checkpointing="stages=2"),
    "batch norm": MemorySetup("efficientnet_b0", 128, "fp32"),
    "attention": MemorySetup("vit_tiny_patch16_224", 224, "fp16", drop_path_rate=0.1),
    "inference": MemorySetup("resnet18", 96, "bf16", training=False),
    "coatnet": MemorySetup("coatnet_pico_rw_224", 224, "bf16"),
    "mixer": MemorySetup("poolformer_s12", 96, "fp32"),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_step_tells_the_peak_at_any_batch(name):
    setup = MODELS[name]
    model = MetaModel(setup)
    lines = step_lines(model, training=setup.training)
    assert len(lines) < 10
    for samples in (2, 5, 64, 300):
        live = follow_step(model, samples, training=setup.training)
        assert max(line.at(samples) for line in lines) == live.peak_bytes


def test_images_are_held_as_the_classifier_and_its_callbacks_hold_them():
    """This step's, the last one's for its report, and in the forward pass the normalised."""
    model = MetaModel(MemorySetup("test_vit", 96, "fp32"))
    each = 3 * 96**2 * 4
    training = follow_step(model, 1, training=True).history
    assert [sum(moment) for moment in training[:2]] == [each, 2 * each]
    assert max(sum(moment) for moment in training) > 3 * each
    inference = follow_step(model, 1, training=False).history
    assert [sum(moment) for moment in inference[:2]] == [each // 4, each + each // 4]


def test_mixing_and_augmentation_need_less_than_the_leanest_step():
    """They come before the forward pass and are therefore left out of the prediction."""
    side, count = 224, 10_007
    batch = Batch(
        images=torch.empty(count, 3, side, side, dtype=torch.uint8, device="meta"),
        targets=torch.empty(count, dtype=torch.int64, device="meta"),
        ids=torch.empty(count, dtype=torch.int64, device="meta"),
        weights=torch.empty(count, device="meta"),
        partner_targets=torch.empty(count, dtype=torch.int64, device="meta"),
        mix_ratios=torch.empty(count, device="meta"),
        partner_images=torch.empty(count, 3, side, side, dtype=torch.uint8, device="meta"),
        boxes=torch.empty(count, 4, dtype=torch.int64, device="meta"),
        uniforms=torch.empty(count, AUGMENTATION_UNIFORMS, device="meta"),
    )
    with LiveBytes((), count) as live:
        Augmentation()(mix_batch(batch).images, batch.uniforms)
    loaded = 2 * 3 * side**2
    earlier = 4 * 3 * side**2
    most = max(each for _, each in live.history) + loaded + earlier
    leanest = MemorySetup("efficientnet_b0", side, "bf16", checkpointing="full")
    assert most < step_lines(MetaModel(leanest), training=True)[-1].bytes_per_sample


def test_a_step_of_one_micro_batch_makes_its_gradients_as_it_goes_on():
    model = MetaModel(MemorySetup("convnext_nano", 224, "bf16", checkpointing="full"))
    weights = sum(parameter.nbytes for parameter in model.parameters)
    count = 10_007  # a prime tells what is of the batch from what is not
    adding = follow_step(model, count, training=True)
    making = follow_step(model, count, training=True, accumulates=False)
    # In the end all gradients are there.
    assert making.history[-1][0] == pytest.approx(adding.history[-1][0], abs=weights / 100)
    assert min(fixed for fixed, _ in making.history) < -weights / 2  # early in backward few are
    assert making.peak_bytes <= adding.peak_bytes


def test_recomputed_blocks_keep_no_copies_of_their_weights():
    """Lightning's autocast has no cache: a copy lives as long as backward needs it."""
    plain = MetaModel(MemorySetup("convnext_nano", 224, "bf16"))
    follow_step(plain, 2, training=True)
    kept = plain.emulation.weight_copies_bytes
    assert kept == pytest.approx(sum(p.nbytes for p in plain.parameters) / 2, rel=0.05)
    lean = MetaModel(MemorySetup("convnext_nano", 224, "bf16", checkpointing="full"))
    follow_step(lean, 2, training=True)
    assert lean.emulation.weight_copies_bytes < kept / 4


def test_gradients_of_a_pass_that_are_kept_apart_come_on_top_of_those_that_were_there():
    """With BatchNorm, where `OomRecovery` could not take a failed pass back otherwise."""
    model = MetaModel(MODELS["batch norm"])
    weights = sum(parameter.nbytes for parameter in model.parameters)
    added, apart = (
        follow_step(model, 10_007, training=True, apart=is_apart).history[-1][0]
        for is_apart in (False, True)
    )
    assert apart - added == pytest.approx(weights, rel=0.05)
