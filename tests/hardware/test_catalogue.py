from pathlib import Path

import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import load_catalogue, recognise
from gpuopt.hardware.gpu import capability_of
from gpuopt.hardware.policy import (
    has_tensor_cores,
    recommended_image_size,
    recommended_num_workers,
    recommended_precision,
)

FOLDER = Path(__file__).parents[2] / "conf" / "gpu"
CATALOGUE = load_catalogue(FOLDER)
CARDS = {stem: gpu for stem, gpu in CATALOGUE.items() if stem not in ("auto", "cpu")}

# From the guide's commands: batch, side, workers, accumulation, safety factor, mode.
GUIDE = {
    "rtx4090": (256, 448, 16, None, 0.95, "highperf"),
    "rtx4080": (128, 384, 12, 2, 0.90, "basic"),
    "rtx4070": (64, 320, 8, 4, 0.85, "fast_optimized"),
    "rtx3080": (48, 288, 6, 6, 0.80, "fast_optimized"),
    "rtx3070": (96, 288, 6, 3, None, "highperf"),
    "rtx3060": (64, 256, 4, 4, None, "highperf"),
    "rtx3060_8gb": (64, 256, 4, 4, None, "highperf"),
    "rtx2070": (48, 224, 4, 6, None, "highperf"),
    "rtx2060": (32, 224, 2, 8, None, "highperf"),
    "gtx1660ti": (16, 192, 2, 16, None, "highperf"),
}


def test_presets_are_the_same_without_libyaml(monkeypatch):
    monkeypatch.setattr("yaml.__with_libyaml__", False)
    assert load_catalogue(FOLDER) == CATALOGUE


def test_every_card_has_a_preset():
    assert len(CARDS) == 35
    assert {"auto", "cpu", "gtx1660", "rtx3060", "rtx3080_12gb", "a100_80gb"} <= set(CATALOGUE)


@pytest.mark.parametrize("stem", CARDS)
def test_a_preset_is_complete_and_recommends_what_the_policy_does(stem):
    gpu = CARDS[stem]
    capability = capability_of(gpu.compute_capability)
    assert all(vars(gpu)[key] is not None for key in ("architecture", "tdp_w", "fp32_tflops"))
    assert has_tensor_cores(capability, gpu.sm_count) == (gpu.tensor_tflops is not None)
    assert gpu.bf16_native == (capability >= (8, 0))
    assert gpu.fp8 == (capability >= (8, 9))
    tensor_cores = gpu.tensor_tflops is not None
    assert gpu.precision == recommended_precision(capability, tensor_cores)
    assert gpu.num_workers == recommended_num_workers(gpu.tensor_tflops or gpu.fp32_tflops)
    assert gpu.image_size == recommended_image_size(gpu.memory_mib)
    assert gpu.headroom_ratio is None  # is left to the evidence
    assert FOLDER.joinpath(f"{stem}.yaml").read_text().startswith("# Source: ")


# From the guide's table of ranks, and for the RTX 2060 from a heading.
GUIDE_TIERS = {
    "high-end": {"rtx4090", "rtx4080super"},
    "mid-range": {"rtx4080", "rtx3080", "rtx3080_12gb", "rtx3070ti"},
    "budget": {"rtx4070", "rtx3070", "rtx3060ti"},
    "low-end": {"rtx3060", "rtx3060_8gb", "rtx2070", "rtx2060", "gtx1660ti"},
}


def test_the_guides_rows_are_kept_whole():
    rows = {s: tuple(vars(g.seed).values())[:-1] for s, g in CARDS.items() if g.seed}
    assert {stem: row for stem, row in rows.items() if any(row)} == GUIDE
    tiers = {stem: gpu.seed.tier for stem, gpu in CARDS.items() if gpu.seed}
    assert tiers == {stem: tier for tier, stems in GUIDE_TIERS.items() for stem in stems}


@pytest.mark.parametrize("stem", CARDS)
def test_every_card_is_recognised_also_with_the_smaller_total_that_cuda_reports(stem):
    gpu = CARDS[stem]
    assert recognise(gpu.nvml_name, gpu.memory_mib, CATALOGUE) == stem
    assert recognise(gpu.nvml_name, gpu.memory_mib * 0.98, CATALOGUE) == stem
    assert recognise(gpu.nvml_name, gpu.memory_mib * 0.96, CATALOGUE) is None
    assert recognise(gpu.nvml_name.removeprefix("NVIDIA "), gpu.memory_mib, CATALOGUE) == stem


@pytest.mark.parametrize(
    ("name", "memory_mib"),
    [
        ("NVIDIA GeForce RTX 2060", 12288),  # a variant that is not listed
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376),
        ("NVIDIA GeForce RTX 4090 D", 24564),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6144),
        ("NVIDIA GeForce GTX 1660 SUPER", 6144),
        ("NVIDIA H200 NVL", 143771),
        ("NVIDIA H100 80GB HBM3", 143771),
        ("NVIDIA H200", 81559),
        ("NVIDIA L40", 46068),
        ("NVIDIA A10", 23028),
        ("NVIDIA GB200", 183359),
        ("NVIDIA H200 MIG 1g.18gb", 16384),
    ],
)
def test_neighbours_in_name_are_not_taken_for_a_listed_card(name, memory_mib):
    assert recognise(name, memory_mib, CATALOGUE) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: X\nmemory_mb: 1\n", r"card.yaml: unknown key 'memory_mb' \(nearest: memory_mib"),
        ("name: X\nmemory_mib: lots\n", "card.yaml: memory_mib='lots' has the wrong type"),
        ("name: X\nsm_count: true\n", "card.yaml: sm_count=True has the wrong type"),
        ("name: X\ncompute_capability: 8.6\n", "card.yaml: compute_capability=8.6 has the wrong"),
        ("name: X\nmemory_mib: -5\n", "card.yaml: gpu.memory_mib=-5"),
        ("name: X\nseed: {batch: 3}\n", "card.yaml: seed: unknown key 'batch'"),
        ("name: X\nseed: 3\n", "card.yaml: seed: expected keys and values"),
        ("- name\n", "card.yaml: expected keys and values"),
        ("name: [\n", "card.yaml: cannot be read"),
        ("name: !!python/object/apply:os.getcwd []\n", "card.yaml: cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_with_its_name(tmp_path, text, message):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_catalogue(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_presets_is_refused(tmp_path):
    with pytest.raises(InputError, match="no GPU presets"):
        load_catalogue(tmp_path)
