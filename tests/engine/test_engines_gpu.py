"""Every engine that can be used on the GPU that is here, in each precision."""

import pytest
import torch

from gpuopt.engine import EngineRequest
from gpuopt.engine.backends import ENGINE_NAMES, file_backend, live_backend
from gpuopt.engine.cache import EngineCache
from gpuopt.errors import FaultError
from tests.engine.conftest import expected, is_of_the_compiler, pictures, trained

pytestmark = pytest.mark.gpu
NETWORKS = ("test_vit", "test_convnext", "test_efficientnet")
# Relative to the largest logit.
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 8e-2}
# Take 10 to 70 seconds for a case.
COMPILERS = ("compiled", "aot_inductor")
# What a precision does to a network is in the served graph, of which each engine makes its code:
# compilers are asked for every network and every precision once, the others for all pairs.
CASES = [
    (engine, network, precision)
    for engine in ENGINE_NAMES
    for network, its_own in zip(NETWORKS, TOLERANCE, strict=True)
    for precision in TOLERANCE
    if engine not in COMPILERS or precision == its_own
]


@pytest.mark.parametrize(("engine", "network", "precision"), CASES)
def test_an_engine_answers_as_the_network(engine, network, precision, tmp_path):
    device = torch.device("cuda")
    backend = file_backend(engine) or live_backend(engine)
    if reason := backend.unavailable(device):  # an optional package, or a compiler, is missing
        pytest.skip(reason)
    model = trained(network)
    asked = EngineRequest(32, 5, precision, 4, 6, device)
    live = live_backend(engine)
    if live is not None:
        made = live.wrap(asked, model)
    else:
        try:
            made = EngineCache(tmp_path).open(backend, asked, model)
        except FaultError as error:
            if not is_of_the_compiler(str(error)):
                raise
            pytest.skip(str(error))
    answers = {}
    for count in (1, 3, 4, 5, 6, 1):
        images = pictures(count, seed=count)
        reference = expected(model, images)
        logits = made(images.to(device))
        assert logits.device.type == "cuda"
        assert logits.dtype == torch.float32
        answers[count] = logits
        difference = (logits.cpu() - reference).abs().max()
        assert difference <= TOLERANCE[precision] * reference.abs().max(), count
    # No answer lies in memory that a later call writes again.
    reference = expected(model, pictures(3, seed=3))
    difference = (answers[3].cpu() - reference).abs().max()
    assert difference <= TOLERANCE[precision] * reference.abs().max()
