"""PyTorch as it is: always there, and what the others are compared with."""

import torch

from gpuopt.engine.calls import CallableEngine
from gpuopt.engine.protocol import Engine, EngineRequest, TrainedNetwork
from gpuopt.engine.served_model import serve

__all__ = ["Eager"]


class Eager:
    """Runs the served network operation by operation."""

    name = "eager"

    def unavailable(self, device: torch.device) -> str | None:
        """Return None: it runs wherever PyTorch does."""
        return None

    def wrap(self, request: EngineRequest, network: TrainedNetwork) -> Engine:
        """Make the engine.

        Raises:
            FaultError: When the network does not run on images of the request's size.
        """
        return CallableEngine(self.name, request, serve(network, request))
