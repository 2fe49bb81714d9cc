import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue
from gpuopt.memory import MemoryEstimate, predict_memory

FOLDER = Path(__file__).parents[2] / "conf" / "gpu"
CATALOGUE = load_catalogue(FOLDER)

# Counted independently of this package; together with AdamW and the context these gave timm's
# published largest batches on a 24 GB card. 1e6 bytes per sample under autocast, by side.
TABLE = {
    ("convnext_base", 224): 127.6,
    ("convnext_base", 384): 375.1,
    ("efficientnet_b3", 320): 173.8,
    ("efficientnet_b0", 192): 32.4,
    ("resnet50", 448): 175.0,
}


@pytest.fixture(scope="module")
def convnext():
    return predict_memory("convnext_base", 384, "bf16")


@pytest.mark.parametrize(("model", "side"), TABLE)
def test_the_reference_table_is_met(model, side):
    estimate = predict_memory(model, side, "fp16")
    assert estimate.bytes_per_sample / 1e6 == pytest.approx(TABLE[model, side], rel=0.02)


def test_fixed_bytes_are_weights_gradients_adamw_and_the_half_copies(convnext):
    assert convnext.fixed_bytes / 1e9 == pytest.approx(1.42 + 0.18, rel=0.02)
    without_state = predict_memory("convnext_base", 384, "bf16", optimizer_bytes_per_parameter=0)
    saved = convnext.fixed_bytes - without_state.fixed_bytes
    assert saved == pytest.approx(8 * 88_591_464, rel=1e-6)


@pytest.mark.parametrize(
    ("stem", "largest"),
    [
        ("h200", 395),
        ("l40s", 122),
        ("rtx5090", 84),
        ("rtx4090", 62),
        ("a10g", 57),
        ("rtx4080", 39),
        ("t4", 36),
        ("rtx3060", 27),
        ("rtx3080", 22),
        ("rtx4060", 16),
        ("rtx2060", 10),
    ],
)
def test_the_largest_convnext_batch_of_each_card_is_met(convnext, stem, largest):
    memory_bytes = CATALOGUE[stem].memory_mib * 2**20
    assert abs(convnext.largest_batch(memory_bytes) - largest) <= 2


def test_the_batches_that_the_presets_mention_are_what_is_predicted():
    predict = functools.cache(predict_memory)
    for stem, gpu in CATALOGUE.items():
        if gpu.memory_mib is None:
            continue
        text = (FOLDER / f"{stem}.yaml").read_text()
        precision, samples = re.search(r"in (\w+): (\d+) samples fit", text).groups()
        assert precision == gpu.precision
        estimate = predict("convnext_base", gpu.image_size, precision)
        assert abs(estimate.largest_batch(gpu.budget_bytes()) - int(samples)) <= 1, stem


@pytest.mark.parametrize("model", ["regnety_016", "swin_tiny_patch4_window7_224"])
def test_any_timm_model_takes_less_in_half_precision_and_less_when_checkpointed(model):
    fp32 = predict_memory(model, 224, "fp32")
    tf32 = predict_memory(model, 224, "tf32")
    half = predict_memory(model, 224, "bf16")
    checkpointed = predict_memory(model, 224, "bf16", checkpointing=True)
    assert fp32 == tf32
    assert 1.4 < fp32.bytes_per_sample / half.bytes_per_sample <= 2.05
    assert half.fixed_bytes > fp32.fixed_bytes  # the half-precision copies of the weights
    assert 2 < half.bytes_per_sample / checkpointed.bytes_per_sample < 10


def test_a_model_that_cannot_be_built_without_data_is_built_on_the_cpu(monkeypatch):
    """As timm's RegNets with torch 2.11, which compute their widths with tensors."""
    expected, create = predict_memory("resnet18", 64, "fp32"), timm.create_model

    def needs_data(*args, **options):
        torch.zeros(()).item()
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", needs_data)
    assert predict_memory("resnet18", 64, "fp32") == expected


@pytest.mark.parametrize(
    ("model", "side", "gib"), [("convnext_base", 384, 0.0734), ("efficientnet_b3", 300, 0.0347)]
)
def test_checkpointing_agrees_with_torchs_own_memory_tracker(model, side, gib):
    estimate = predict_memory(model, side, "fp16", checkpointing=True)
    assert estimate.bytes_per_sample / 2**30 == pytest.approx(gib, rel=0.05)


def test_fused_attention_keeps_no_attention_matrix():
    small = predict_memory("vit_tiny_patch16_224", 224, "bf16").bytes_per_sample
    large = predict_memory("vit_tiny_patch16_224", 448, "bf16").bytes_per_sample
    assert large / small == pytest.approx(785 / 197, rel=0.02)  # tokens, not tokens squared


def test_attention_that_cuda_cannot_fuse_keeps_its_matrices():
    assert predict_memory("nest_tiny", 224, "bf16").bytes_per_sample > 0  # five dimensions


def test_a_name_with_the_tag_of_its_weights_is_the_same_model():
    tagged = predict_memory("resnet18.a1_in1k", 64, "bf16")
    assert tagged == predict_memory("resnet18", 64, "bf16")


def test_the_number_of_classes_sizes_the_head():
    many = predict_memory("resnet18", 64, "fp32", num_classes=1000)
    few = predict_memory("resnet18", 64, "fp32", num_classes=17)
    assert many.fixed_bytes - few.fixed_bytes == pytest.approx(16 * 513 * 983, rel=0.01)


@pytest.mark.parametrize(
    ("model", "side", "message"),
    [
        ("resnet51", 224, "resnet51: unknown to timm .*resnet50"),
        ("convnext_tiny", 16, "image_size=16 cannot be predicted"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(model, side, message):
    with pytest.raises(InputError, match=message) as caught:
        predict_memory(model, side, "fp32")
    assert "\n" not in str(caught.value)


def test_a_model_without_checkpointing_is_refused():
    with pytest.raises(InputError, match="no activation checkpointing"):
        predict_memory("dla34", 64, "fp32", checkpointing=True)


def test_the_line_and_its_inverse_agree():
    estimate = MemoryEstimate(bytes_per_sample=10, fixed_bytes=100, context_bytes=50)
    assert estimate.peak_bytes(3) == 180
    for budget, largest in [(0, 0), (159, 0), (160, 1), (180, 3), (189, 3), (190, 4)]:
        assert estimate.largest_batch(budget) == largest


def test_importing_does_not_import_timm():
    code = "import sys, gpuopt.memory; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
