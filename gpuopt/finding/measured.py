"""The batch of a card from probes on it. Imports no torch: a probe is any function."""

from collections.abc import Callable
from typing import NamedTuple

from gpuopt.errors import InputError
from gpuopt.finding.answer import CardAnswer, SizedProbe
from gpuopt.finding.predicted import predict, predict_levels, predict_parts
from gpuopt.finding.request import FindRequest
from gpuopt.hardware import Gpu
from gpuopt.memory import FinderResult, MemoryEstimate, ProbeResult, find_batch_size

__all__ = ["DeviceProbe", "measured_answer"]

# What `aggressive=true` tries, from the smallest on.
_SMALLEST_HEADROOMS = (0.01, 0.02, 0.03, 0.05)


class DeviceProbe(NamedTuple):
    """How a card is probed.

    Attributes:
        run: Runs real steps of a batch size.
        capacity_bytes: What torch's allocator can have on the device.
        device_index: Position in CUDA's order.
    """

    run: Callable[[int], ProbeResult]
    capacity_bytes: int
    device_index: int


def measured_answer(
    request: FindRequest,
    card: Gpu,
    device: DeviceProbe,
    reason: str,
    on_probe: Callable[[SizedProbe], None] | None = None,
) -> CardAnswer:
    """Search for the batch of a card with at most four probes, or some more when aggressive.

    Args:
        request: What is asked.
        card: With its headroom.
        device: Probes it.
        reason: Where it was measured.
        on_probe: Called after each probe.
    """
    probes = _Probes(device.run, on_probe)
    prior = _prior(request, card)

    def search(headroom_ratio: float) -> FinderResult:
        return find_batch_size(
            probes,
            capacity_bytes=device.capacity_bytes,
            headroom_ratio=headroom_ratio,
            prior=prior,
            maximum=request.maximum,
        )

    usual = card.headroom("measured")
    result = _smallest_confirmed(search, probes, usual) if request.aggressive else search(usual)
    chosen, why = _chosen(request, result)
    return CardAnswer(
        card=card.name,
        device_index=device.device_index,
        evidence="measured",
        reason=reason,
        precision=request.setup_on(card).precision,
        headroom_ratio=result.headroom_ratio,
        context_bytes=None,
        free_bytes=result.capacity_bytes,
        budget_bytes=result.budget_bytes,
        largest=result.largest,
        knee=result.knee or None,
        chosen=chosen,
        why=why,
        probes=[_sized(p, fits=result.fits(p)) for p in map(result.judged, probes.results)],
        levels=_levels(request, card, prior, result),
        parts={} if prior is None else predict_parts(prior, chosen or 1),
    )


class _Probes:
    """Runs each size once, however often searches ask for it."""

    def __init__(
        self,
        run: Callable[[int], ProbeResult],
        on_probe: Callable[[SizedProbe], None] | None,
    ) -> None:
        self._run = run
        self._on_probe = on_probe
        self._by_samples: dict[int, ProbeResult] = {}

    @property
    def results(self) -> list[ProbeResult]:
        return list(self._by_samples.values())

    def __call__(self, samples: int) -> ProbeResult:
        if samples not in self._by_samples:
            self._by_samples[samples] = result = self._run(samples)
            if self._on_probe is not None:
                self._on_probe(
                    _sized(result, fits=not (result.ran_out_of_memory or result.thrashed))
                )
        return self._by_samples[samples]


def _smallest_confirmed(
    search: Callable[[float], FinderResult], probes: _Probes, usual: float
) -> FinderResult:
    """Take the smallest headroom whose answer a probe of that very size confirms."""
    for headroom_ratio in (ratio for ratio in _SMALLEST_HEADROOMS if ratio < usual):
        result = search(headroom_ratio)
        if result.largest < 1:  # nor does anything fit with more headroom
            return result
        if result.fits(result.judged(probes(result.largest))):
            return result
    return search(usual)


def _prior(request: FindRequest, card: Gpu) -> MemoryEstimate | None:
    try:
        return predict(request, card)
    except InputError:  # a model that cannot be followed without data can still be measured
        return None


def _levels(
    request: FindRequest, card: Gpu, prior: MemoryEstimate | None, result: FinderResult
) -> dict[str, int]:
    """Predict the levels within what was measured to be free, which other processes lessen."""
    if prior is None:
        return {}
    # A predicted peak includes the CUDA context; a measured budget does not.
    return predict_levels(request, card, result.budget_bytes + prior.fixed.context)


def _chosen(request: FindRequest, result: FinderResult) -> tuple[int, str]:
    count = len(result.probes)
    failed = result.out_of_memory_count
    free = f"{100 * result.headroom_ratio:.3g} % kept free"
    start = f"{count} probes, {failed} out of memory, {free}; "
    if result.largest < 1:
        return 0, f"{start}not one sample fits: {result.need()}"
    chosen, why = request.choose(result.largest)
    return chosen, start + why


def _sized(probe: ProbeResult, *, fits: bool) -> SizedProbe:
    return SizedProbe(
        probe.samples,
        None if probe.ran_out_of_memory else probe.peak_bytes,
        None if probe.seconds_per_step is None else 1000 * probe.seconds_per_step,
        fits,
        probe.thrashed,
    )
