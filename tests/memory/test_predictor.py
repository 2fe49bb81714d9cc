import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.memory import CONTEXT_BYTES, MemorySetup, meta_model, predict_memory
from gpuopt.memory.step_trace import step_lines

ROOT = Path(__file__).parents[2]
CATALOGUE = load_catalogue(ROOT / "conf" / "gpu")
CONVNEXT = MemorySetup("convnext_base", 384, "bf16")


@pytest.fixture
def newly_built():
    """Models are kept from one prediction to the next."""
    meta_model._built.cache_clear()
    yield
    meta_model._built.cache_clear()


def test_the_measured_peak_of_an_h200_is_met():
    """`mode=highperf` there: averaged weights, eager, one micro-batch of 256 a step."""
    results = ROOT / "benchmarks/results/highperf_gpu_nvidia_h200.json"
    rows = json.loads(results.read_text("utf-8"))["rows"]
    (measured_gib,) = (
        row["value"]
        for row in rows
        if row["measure"] == "peak memory, allocated" and "compiled" not in row["setting"]
    )
    setup = MemorySetup(
        "convnext_base.fb_in22k_ft_in1k_384", 384, "bf16", num_classes=17, moving_average=True
    )
    predicted_gib = predict_memory(setup).allocated_bytes(256) / 2**30
    assert predicted_gib == pytest.approx(measured_gib, rel=0.005)


# Batches with which timm trained on an RTX 3090 (results/benchmark-train-amp-*-rtx3090.csv), and
# the next larger one of its ladder, which did not fit. Where it did not try one, there is none.
TIMM_BATCHES = {
    ("convnext_base", 384): (48, 64),
    ("convnext_base", 224): (128, 192),
    ("convnext_tiny", 224): (256, 384),
    ("efficientnet_b3", 288): (128, 192),
    ("vit_base_patch16_224", 224): (192, None),  # 256 did not fit a torch without fused attention
    ("resnet50", 224): (512, None),
    ("efficientnet_b0", 224): (384, None),
}


@pytest.mark.parametrize(("model", "side"), TIMM_BATCHES)
def test_the_batches_that_timm_published_for_24_gb_are_bracketed(model, side):
    fits, too_large = TIMM_BATCHES[model, side]
    largest = predict_memory(MemorySetup(model, side, "fp16")).largest_batch(24576 * 2**20)
    assert fits <= largest
    assert too_large is None or largest < too_large


def test_the_fixed_parts_are_itemised():
    fixed = predict_memory(CONVNEXT).fixed
    weights = 4 * 88_591_464
    assert (fixed.parameters, fixed.gradients) == (weights, weights)
    assert fixed.optimizer_state == 2 * weights
    # All but the layer scales and norms, which autocast leaves in fp32.
    assert fixed.half_precision_weights == pytest.approx(weights / 2, rel=0.01)
    assert (fixed.moving_average, fixed.buffers, fixed.context) == (0, 0, CONTEXT_BYTES)
    assert fixed.workspace > 0
    in_fp32 = predict_memory(replace(CONVNEXT, precision="fp32")).fixed
    assert in_fp32.half_precision_weights == 0


def test_optimizer_and_average_are_counted_once_each():
    setup = MemorySetup("resnet18", 64, "fp32")
    network = timm.create_model("resnet18")
    weights = sum(parameter.nbytes for parameter in network.parameters())
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    plain = predict_memory(setup).peak_bytes(16)
    changed = {
        "optimizer_moments": (1, -weights),
        "moving_average": (True, weights + buffers),
        "training": (False, None),
    }
    for name, (value, difference) in changed.items():
        peak = predict_memory(replace(setup, **{name: value})).peak_bytes(16)
        assert peak < plain - 3 * weights if difference is None else peak == plain + difference


def test_an_optimizer_that_is_not_fused_may_be_the_peak_of_a_small_batch():
    setup = MemorySetup("vit_base_patch32_224", 224, "fp16")
    fused, listed = predict_memory(setup), predict_memory(replace(setup, optimizer_is_fused=False))
    assert listed.peak_bytes(1) > fused.peak_bytes(1)
    assert listed.peak_bytes(512) == fused.peak_bytes(512)


def test_a_line_from_small_batches_would_run_below_the_peak():
    memory = predict_memory(CONVNEXT)
    slope = memory.peak_bytes(2) - memory.peak_bytes(1)
    assert memory.peak_bytes(1) + 255 * slope < 0.99 * memory.peak_bytes(256)


# Neither presets nor options name these.
@pytest.mark.parametrize("model", ["regnety_016", "swin_tiny_patch4_window7_224"])
def test_any_timm_model_takes_less_in_half_precision_checkpointed_and_in_inference(model):
    setup = MemorySetup(model, 224, "bf16")
    half = predict_memory(setup)
    fp32, tf32 = (predict_memory(replace(setup, precision=name)) for name in ("fp32", "tf32"))
    checkpointed = predict_memory(replace(setup, checkpointing="full"))
    inference = predict_memory(replace(setup, training=False))
    assert fp32 == tf32
    assert 1.3 < fp32.bytes_per_sample / half.bytes_per_sample <= 2.05
    assert half.fixed.total_bytes > fp32.fixed.total_bytes  # the copies of the weights
    assert 2 < half.bytes_per_sample / checkpointed.bytes_per_sample < 10
    assert inference.bytes_per_sample < checkpointed.bytes_per_sample


@pytest.mark.parametrize("model", ["resnet50", "mobilenetv3_small_100"])
def test_every_further_stage_that_is_recomputed_takes_less(model):
    plain = predict_memory(MemorySetup(model, 96, "bf16"))
    levels = [f"stages={count}" for count in range(1, plain.stages)]
    assert plain.stages == {"resnet50": 4, "mobilenetv3_small_100": 6}[model]
    peaks = [
        predict_memory(MemorySetup(model, 96, "bf16", checkpointing=level)).peak_bytes(256)
        for level in ("none", *levels, "full")
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == plain.peak_bytes(256)
    assert len(set(peaks)) > plain.stages - 1
    last = MemorySetup(model, 96, "bf16", checkpointing=f"stages={plain.stages}")
    assert predict_memory(last).peak_bytes(256) == peaks[-1]


def test_stages_that_a_model_does_not_have_are_refused():
    with pytest.raises(InputError, match="stages=5: the network has 4 stages"):
        predict_memory(MemorySetup("resnet18", 64, "fp32", checkpointing="stages=5"))


def test_an_offloaded_optimizer_leaves_the_state_of_small_parameters():
    resident = predict_memory(MemorySetup("resnet18", 64, "fp32")).fixed
    moved = predict_memory(MemorySetup("resnet18", 64, "fp32", optimizer_is_offloaded=True)).fixed
    parameters = list(timm.create_model("resnet18").parameters())
    small = sum(4 * p.numel() for p in parameters if p.numel() < 4096)
    assert moved.optimizer_state == 2 * small
    assert resident.total_bytes - moved.total_bytes == resident.optimizer_state - 2 * small


@pytest.mark.parametrize(
    ("model", "side", "gib"), [("convnext_base", 384, 0.0734), ("efficientnet_b3", 300, 0.0347)]
)
def test_checkpointing_agrees_with_torchs_own_memory_tracker(model, side, gib):
    memory = predict_memory(MemorySetup(model, side, "fp16", checkpointing="full"))
    images = 2 * 3 * side**2 * 4 / 2**30  # which the tracker's step did not hold
    slope = (memory.peak_bytes(64) - memory.peak_bytes(32)) / 32 / 2**30
    assert slope - images == pytest.approx(gib, rel=0.05)


def test_fused_attention_keeps_no_attention_matrix():
    small, large = (
        predict_memory(MemorySetup("vit_tiny_patch16_224", side, "bf16")).bytes_per_sample
        for side in (224, 448)
    )
    assert large / small == pytest.approx(785 / 197, rel=0.02)  # tokens, not tokens squared


def test_attention_that_cuda_cannot_fuse_keeps_its_matrices():
    assert predict_memory(MemorySetup("nest_tiny", 224, "bf16")).bytes_per_sample > 0  # five axes


def test_a_model_that_cannot_be_built_without_data_is_built_on_the_cpu(
    monkeypatch, tmp_path, newly_built
):
    """As timm's RegNets with torch 2.11, which compute their widths with tensors."""
    setup = MemorySetup("resnet18", 64, "fp32")
    expected, create = predict_memory(setup), timm.create_model

    def needs_data(*args, **options):
        torch.zeros(()).item()
        return create(*args, **options)

    meta_model._built.cache_clear()
    monkeypatch.setattr(timm, "create_model", needs_data)
    assert predict_memory(setup, cache_dir=tmp_path) == expected


def test_a_name_with_the_tag_of_its_weights_is_the_same_model():
    tagged = predict_memory(MemorySetup("resnet18.a1_in1k", 64, "bf16"))
    assert tagged == predict_memory(MemorySetup("resnet18", 64, "bf16"))


def test_without_a_size_a_model_gets_its_own():
    own = predict_memory(MemorySetup("convnext_base.fb_in22k_ft_in1k_384", None, "bf16"))
    assert own.image_size == 384
    assert own == predict_memory(CONVNEXT)


def test_the_number_of_classes_sizes_the_head():
    many, few = (
        predict_memory(MemorySetup("resnet18", 64, "fp32", num_classes=classes))
        for classes in (1000, 17)
    )
    assert many.fixed.parameters - few.fixed.parameters == 4 * 513 * 983


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (MemorySetup("resnet51", 224, "fp32"), "resnet51: unknown to timm .*resnet50"),
        (MemorySetup("convnext_tiny", 16, "fp32"), "image_size=16 cannot be predicted"),
        (
            MemorySetup("dla34", 64, "fp32", checkpointing="full"),
            "no activation checkpointing",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(setup, message):
    with pytest.raises(InputError, match=message) as caught:
        predict_memory(setup)
    assert "\n" not in str(caught.value)


def test_presets_recommend_a_size_at_which_some_samples_fit():
    for stem, gpu in CATALOGUE.items():
        if gpu.memory_mib is not None:
            memory = predict_memory(MemorySetup("convnext_base", gpu.image_size, gpu.precision))
            assert memory.largest_batch(gpu.budget_bytes()) >= 12, stem


def test_importing_imports_neither_timm_nor_torch():
    code = "import sys, gpuopt.memory; sys.exit(bool({'timm', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("model", "drop_rate", "is_apart"),
    [("resnet18", 0.0, True), ("test_vit", 0.0, False), ("test_vit", 0.1, True)],
)
def test_what_depends_on_its_batch_keeps_the_gradients_of_a_pass_apart(model, drop_rate, is_apart):
    """See `gpuopt.steps.window_gradients`; a step of one micro-batch has none to keep apart."""
    setup = MemorySetup(model, None, "fp32", drop_rate=drop_rate)
    meta = meta_model.MetaModel(setup)
    lines = [step_lines(meta, training=True, apart=apart) for apart in (False, True)]
    assert lines[0] != lines[1]
    predicted = predict_memory(setup, keep=False)
    (expected,) = (
        fixed.base_bytes
        for fixed in lines[is_apart]
        if fixed.bytes_per_sample == predicted.bytes_per_sample
    )
    assert predicted.lines[-1].base_bytes == expected - predicted.fixed.half_precision_weights
