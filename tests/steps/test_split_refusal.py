from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from gpuopt.errors import InputError
from gpuopt.steps.split_refusal import refuse
from tests.callbacks.memory_faults import Net


@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_scatter_the_weights_are_refused(kind):
    strategy = object.__new__(kind)  # DeepSpeed itself is not installed
    with pytest.raises(InputError, match=f"Recovery cannot .*{kind.__name__} leaves weights"):
        refuse("Recovery", "recovery", SimpleNamespace(strategy=strategy), Net())
