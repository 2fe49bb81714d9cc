"""The batch of a card from probes and a search that are made up."""

import pytest

from gpuopt.finding.answer import CardAnswer
from gpuopt.finding.measured import DeviceProbe, measured_answer
from gpuopt.finding.request import FindRequest
from gpuopt.hardware import AbsentGpu, Gpu
from gpuopt.memory import FinderResult, ProbeResult

GIB = 2**30
CARD = Gpu(name="a card", memory_mib=8192, headroom_ratio=0.08, precision="fp32", image_size=32)
REQUEST = FindRequest(
    purpose="predict",
    gpu=AbsentGpu(name="auto"),
    catalogue={},
    model={"name": "test_vit"},
    optimizer={"_target_": "gpuopt.model.AdamW"},
    aggressive=True,
)


@pytest.fixture
def answer_where_more_thrash(monkeypatch):
    """Answer where each headroom of 1 % takes one sample of 100."""

    def search(probe, *, capacity_bytes, headroom_ratio, **_):
        budget = int(capacity_bytes * (1 - headroom_ratio))
        largest = round(100 * (1 - headroom_ratio))
        return FinderResult(largest, False, budget, capacity_bytes, headroom_ratio, (probe(8),))

    monkeypatch.setattr("gpuopt.finding.measured.find_batch_size", search)
    monkeypatch.setattr("gpuopt.finding.measured._prior", lambda request, card: None)

    def answer(most):
        def run(samples):
            peak = samples * GIB // 100
            return ProbeResult(samples, peak, seconds_per_step=1.0, thrashed=samples > most)

        return measured_answer(REQUEST, CARD, DeviceProbe(run, GIB, 0), "made up")

    return answer


@pytest.mark.parametrize(("most", "headroom"), [(100, 0.01), (97, 0.03), (93, 0.08)])
def test_a_size_at_which_the_allocator_thrashes_confirms_no_headroom(
    answer_where_more_thrash, most, headroom
):
    answer = answer_where_more_thrash(most)
    assert answer.headroom_ratio == headroom
    for probe in answer.probes:
        assert probe.thrashed is (probe.batch_size > most)
        if probe.thrashed:
            assert not probe.fits
    assert CardAnswer.from_dict(answer.as_dict()).probes == tuple(answer.probes)
