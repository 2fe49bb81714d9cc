import dataclasses
import random
import statistics

import pytest

from gpuopt.errors import TargetNotMetError
from gpuopt.memory import (
    MOST_PROBES,
    FixedMemory,
    Line,
    MemoryEstimate,
    ProbeResult,
    find_batch_size,
)

GIB = 2**30
CONTEXT = 800_000_000
# Bytes that stay and the lines of a step, in GiB: like ConvNeXt-Base at 384 px, plain,
# checkpointed and with an optimizer that needs memory of its own; EfficientNet-B3 and B0,
# ResNet-50, ViT-B, inference, a very small net, and one whose steepest line starts below.
MODELS = {
    "convnext": (1.35, [(0.1, 0.34), (0.0, 0.3554)]),
    "convnext_checkpointed": (1.35, [(0.3, 0.02), (0.0, 0.0734)]),
    "convnext_not_fused": (1.35, [(0.65, 0.0), (0.0, 0.0734)]),
    "efficientnet_b3": (0.2, [(0.06, 0.1449), (0.04, 0.146)]),
    "efficientnet_b0": (0.1, [(0.05, 0.04), (0.02, 0.05)]),
    "resnet50": (0.4, [(0.1, 0.07), (0.02, 0.085)]),
    "vit": (1.4, [(0.3, 0.05), (0.0, 0.075)]),
    "inference": (0.5, [(0.2, 0.02), (0.02, 0.031)]),
    "tiny": (0.02, [(0.0, 0.01)]),
    "late_slope": (1.35, [(0.1, 0.3), (-0.15, 0.36)]),
}
CAPACITIES_GIB = (4, 6, 8, 10, 12, 16, 24, 48, 80)


class Device:
    """A simulated device: convex peaks, and at each size another workspace."""

    def __init__(self, model, capacity_gib, noise_gib=0.0, seed=0, knows_resident=True):
        self.fixed, self.lines = MODELS[model]
        self.capacity_bytes = int(capacity_gib * GIB)
        self.random = random.Random(f"{model} {capacity_gib} {noise_gib} {seed}")
        self.noise_gib, self.noise = noise_gib, {}
        self.resident = int(self.fixed * GIB) if knows_resident else 0
        self.probed, self.failures = [], 0

    def peak_bytes(self, samples):
        noise = self.noise.setdefault(samples, self.random.uniform(0, self.noise_gib))
        highest = max(base + samples * slope for base, slope in self.lines)
        return int((self.fixed + highest + noise) * GIB)

    def most(self):
        samples = 0
        while self.peak_bytes(samples + 1) <= self.capacity_bytes:
            samples += 1
        return samples

    def prior(self, error):
        scale = 1 + self.random.uniform(-error, error)
        lines = tuple(Line(int(b * scale * GIB), int(s * scale * GIB)) for b, s in self.lines)
        return MemoryEstimate(FixedMemory(int(self.fixed * GIB), context=CONTEXT), lines, 224)

    def __call__(self, samples):
        self.probed.append(samples)
        peak = self.peak_bytes(samples)
        if peak > self.capacity_bytes:
            self.failures += 1
            return ProbeResult(samples, ran_out_of_memory=True)
        return ProbeResult(samples, peak, self.resident, seconds_per_step=0.02 + 0.001 * samples)


def searched(device, **options):
    return find_batch_size(device, capacity_bytes=device.capacity_bytes, **options)


@pytest.mark.parametrize("has_prior", [True, False])
@pytest.mark.parametrize("noise_gib", [0.0, 0.15, 0.3])
def test_four_probes_find_nearly_all_that_fits_and_never_run_out(noise_gib, has_prior):
    ratios = []
    for model in MODELS:
        for capacity_gib in CAPACITIES_GIB:
            for seed in range(2):
                device = Device(model, capacity_gib, noise_gib, seed)
                prior = device.prior(0.15) if has_prior else None
                found = searched(device, prior=prior)
                assert device.failures == 0, (model, capacity_gib, seed)
                assert len(device.probed) == len(set(device.probed)) <= MOST_PROBES
                assert device.peak_bytes(found.largest) <= device.capacity_bytes
                most = device.most()
                ratios.append(found.largest / most)
                # On smaller devices the scatter of the workspaces is more than the headroom.
                is_small = capacity_gib < 8 and noise_gib > 0
                least = 0.7 if is_small else 0.85
                is_close = ratios[-1] >= least or most - found.largest <= 1
                assert is_close, (model, capacity_gib, seed, found.largest, most)
    assert statistics.mean(ratios) >= 0.93


@pytest.mark.parametrize("capacity_gib", CAPACITIES_GIB)
@pytest.mark.parametrize("model", MODELS)
def test_a_module_of_which_nothing_is_known_is_safe(model, capacity_gib):
    for seed in range(3):
        device = Device(model, capacity_gib, 0.3, seed, knows_resident=False)
        found = searched(device)
        assert device.failures == 0
        assert device.probed[0] == 2
        assert device.peak_bytes(found.largest) <= device.capacity_bytes


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, 3.0])
def test_a_prior_that_is_wrong_is_dropped(factor):
    for model in MODELS:
        device = Device(model, 24, 0.1)
        true = device.prior(0)
        lines = tuple(
            Line(int(line.base_bytes * factor), int(line.bytes_per_sample * factor))
            for line in true.lines
        )
        found = searched(device, prior=MemoryEstimate(true.fixed, lines, 224))
        assert device.failures == 0, model
        assert found.largest / device.most() > 0.8, model


@pytest.mark.parametrize("factor", [0.1, 0.01])
def test_a_prior_that_is_wrong_by_far_still_ends_with_a_size_that_fits(factor):
    device = Device("convnext", 24)
    lines = tuple(Line(0, int(line.bytes_per_sample * factor)) for line in device.prior(0).lines)
    found = searched(device, prior=MemoryEstimate(FixedMemory(0), lines, 224))
    assert device.peak_bytes(found.largest) <= device.capacity_bytes
    assert len(device.probed) <= 4


def test_headroom_decides_how_much_stays_free():
    sizes = [
        searched(Device("resnet50", 16), headroom_ratio=ratio).largest for ratio in (0.0, 0.1, 0.5)
    ]
    assert sizes == sorted(sizes, reverse=True)
    for ratio in (0.1, 0.5):
        device = Device("resnet50", 16)
        found = searched(device, headroom_ratio=ratio)
        assert found.budget_bytes == int(device.capacity_bytes * (1 - ratio))
        assert device.peak_bytes(found.largest) <= found.budget_bytes
        assert device.peak_bytes(int(found.largest * 1.03)) > found.budget_bytes


def test_no_size_outside_of_the_limits_is_probed():
    device = Device("resnet50", 24)
    found = searched(device, minimum=8, maximum=32)
    assert found.largest == 32
    assert found.is_verified
    assert set(device.probed) <= set(range(8, 33))
    assert searched(Device("resnet50", 24), minimum=20, maximum=20).largest == 20


def test_a_minimum_that_does_not_fit_is_named_with_the_remedy():
    found = searched(Device("convnext", 8), minimum=64)
    assert found.largest == 0
    with pytest.raises(TargetNotMetError, match=r"batch size 64 does not fit.*checkpointing"):
        found.require(64)
    device = Device("convnext", 1)  # not even the weights
    with pytest.raises(TargetNotMetError, match="batch size 1 does not fit: 1 ran out of memory"):
        searched(device).require(1)
    assert device.probed == [2, 1]


class Shrinking(Device):
    """Another process takes memory before one of the probes, and may be noticed."""

    taken_gib, at, tells = 8, 1, True

    def __call__(self, samples):
        if len(self.probed) == self.at:
            self.capacity_bytes -= self.taken_gib * GIB
        result = super().__call__(samples)
        if not self.tells:
            return result
        return ProbeResult(
            samples,
            result.peak_bytes,
            result.resident_bytes,
            self.capacity_bytes,
            result.seconds_per_step,
            result.ran_out_of_memory,
        )


@pytest.mark.parametrize(("at", "tells"), [(0, True), (1, True), (2, True), (0, False)])
def test_memory_that_another_process_takes_is_survived(at, tells):
    device = Shrinking("convnext", 24)
    device.at, device.tells = at, tells
    found = searched(device)
    assert len(device.probed) <= MOST_PROBES
    assert found.out_of_memory_count == device.failures <= (1 if tells else 2)
    assert device.peak_bytes(found.largest) <= device.capacity_bytes
    assert found.largest >= device.most() * 0.5


def test_after_a_failure_the_search_goes_on_between_what_fitted_and_what_did_not():
    device = Device("efficientnet_b3", 24)
    limit = 40

    def probe(samples):
        result = device(samples)
        if samples > limit:
            return ProbeResult(samples, ran_out_of_memory=True)
        return result

    found = find_batch_size(probe, capacity_bytes=device.capacity_bytes)
    assert found.out_of_memory_count >= 1
    assert found.largest < min(size for size in device.probed if size > limit)
    assert found.probes[-1].samples == device.probed[-1]


def test_a_size_at_which_the_allocator_thrashes_does_not_count_as_fitting():
    device = Device("efficientnet_b3", 24)

    def probe(samples):
        return dataclasses.replace(
            device(samples), thrashed=samples > 100, seconds_per_step=0.1 + (samples > 100)
        )

    found = find_batch_size(
        probe, capacity_bytes=device.capacity_bytes, prior=Device("efficientnet_b3", 24).prior(0)
    )
    assert found.out_of_memory_count == 0
    assert any(one.thrashed for one in found.probes)
    assert 40 <= found.largest <= 100
    assert found.is_verified


class Pieces(Device):
    """Between the tensors lie pieces, most of which the allocator can do without."""

    pieces_ratio = 0.06

    def __call__(self, samples):
        self.probed.append(samples)
        live = self.peak_bytes(samples)
        if live > 0.97 * self.capacity_bytes:
            self.failures += 1
            return ProbeResult(samples, ran_out_of_memory=True)
        peak = min(self.capacity_bytes, int(live * (1 + self.pieces_ratio)))
        return ProbeResult(samples, peak, self.resident, live_bytes=live)


@pytest.mark.parametrize("noise_gib", [0.0, 0.15])
@pytest.mark.parametrize("model", MODELS)
def test_pieces_that_the_allocator_can_do_without_do_not_lower_the_answer(model, noise_gib):
    for capacity_gib in (6, 12, 24):
        device = Pieces(model, capacity_gib, noise_gib)
        found = searched(device, prior=device.prior(0.05), headroom_ratio=0.02)
        most = device.most()  # of the tensors alone
        assert device.failures == 0
        assert found.largest >= 0.9 * most or most - found.largest <= 1, (capacity_gib, most)
        assert device.peak_bytes(found.largest) <= 0.95 * device.capacity_bytes
        answer = next((p for p in found.probes if p.samples == found.largest), None)
        whole = device.peak_bytes(found.largest) * (1 + device.pieces_ratio)
        # What only its tensors let in has been measured.
        assert answer is not None or whole <= device.capacity_bytes


def test_large_pieces_are_not_taken_for_what_the_allocator_can_do_without():
    """As measured for wide layers on an emulated 3 GiB card: 109 samples fitted, 121 did not."""
    tried = []

    def probe(samples):
        tried.append(samples)
        live = int(71e6 + 24.63e6 * samples)
        if samples >= 119:
            return ProbeResult(samples, ran_out_of_memory=True)
        return ProbeResult(samples, int(live * 1.121), 69_691_904, live_bytes=live)

    prior = MemoryEstimate(FixedMemory(69_691_904, context=CONTEXT), (Line(0, 27_800_000),), 224)
    found = find_batch_size(probe, capacity_bytes=3 * GIB, headroom_ratio=0.03, prior=prior)
    assert found.out_of_memory_count == 0, tried
    assert found.largest >= 0.85 * 118


def test_more_headroom_holds_for_the_tensors_as_well():
    device = Pieces("vit", 24)
    found = searched(device, prior=device.prior(0.05), headroom_ratio=0.2)
    assert device.peak_bytes(found.largest) <= 0.8 * device.capacity_bytes


def test_two_neighbours_do_not_tell_the_slope():
    """The larger of two sizes may have the lower peak: the next size is no leap for all that."""
    peaks = {86: 4.5, 228: 11.43, 234: 11.16}
    prior = MemoryEstimate(
        FixedMemory(100_000_000, context=CONTEXT), (Line(168_064, 46_026_266),), 224
    )
    tried = []

    def probe(samples):
        tried.append(samples)
        nearest = min(peaks, key=lambda known: abs(known - samples))
        return ProbeResult(
            samples, int(peaks[nearest] * 1e9 + (samples - nearest) * 46e6), 134_000_000
        )

    found = find_batch_size(probe, capacity_bytes=12_085_000_000, headroom_ratio=0.02, prior=prior)
    assert max(tried) < 260, tried
    assert found.largest >= 240


def test_after_thrashing_the_search_goes_on_half_way():
    """Nearly as measured for ViT-B on an emulated 6 GiB card, where 53 samples thrashed."""
    tried = []

    def probe(samples):
        tried.append(samples)
        live = int(1.58e9 + 0.0705e9 * samples)
        return ProbeResult(
            samples,
            min(5_635_000_000, live + 250_000_000),
            1_444_000_000,
            live_bytes=live,
            thrashed=samples >= 52,
        )

    prior = MemoryEstimate(FixedMemory(1_577_000_000, context=CONTEXT), (Line(0, 69_000_000),), 224)
    found = find_batch_size(probe, capacity_bytes=5_642_387_456, headroom_ratio=0.02, prior=prior)
    *_, below, above, answer = tried
    assert above >= 52
    assert answer == found.largest == (below + above) // 2
    assert found.is_verified


@pytest.mark.parametrize(("slowdown", "is_taken"), [(1.0, True), (1.5, False)])
def test_giving_back_the_cache_matters_only_where_it_makes_steps_slow(slowdown, is_taken):
    device = Pieces("vit", 6)

    def probe(samples):
        flushes = samples >= 50
        seconds = (0.001 + 0.0006 * samples) * (slowdown if flushes else 1.0)
        return dataclasses.replace(device(samples), thrashed=flushes, seconds_per_step=seconds)

    found = find_batch_size(
        probe, capacity_bytes=device.capacity_bytes, headroom_ratio=0.02, prior=device.prior(0.0)
    )
    assert (found.largest >= 50) == is_taken
    assert any(one.thrashed for one in found.probes) != is_taken
