"""A served network as one graph with a dynamic batch, from which files of engines are made."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram

from gpuopt.engine.protocol import EngineRequest, TrainedNetwork
from gpuopt.engine.served_model import example_images, serve
from gpuopt.errors import FaultError

__all__ = ["export_program", "export_served", "first_line", "quiet"]

_LOGGERS = ("torch.onnx", "torch._inductor", "torch.utils.cpp_extension")


@torch.inference_mode(False)
@torch.no_grad()
def export_program(
    network: TrainedNetwork, request: EngineRequest, *, explicit_attention: bool = False
) -> ExportedProgram:
    """Export a network for batches of 1 to the request's maximum.

    Args:
        network: Left unchanged.
        request: What is asked for; the graph lies on its device.
        explicit_attention: See `ServedModel`.

    Raises:
        FaultError: When the network cannot be exported.
    """
    served = serve(network, request, explicit_attention=explicit_attention)
    return export_served(served, network.name, request)


@torch.inference_mode(False)
@torch.no_grad()
def export_served(served: nn.Module, name: str, request: EngineRequest) -> ExportedProgram:
    """Export a network that is served already; see `export_program`."""
    most = request.max_batch_size
    # A dynamic dimension is traced at 2 or more: 0 and 1 are special to the tracer.
    images = example_images(request, min(2, most))
    batch = torch.export.Dim("batch", min=1, max=most) if most > 1 else None
    shapes = ({0: batch},) if batch is not None else None
    try:
        with quiet():
            return torch.export.export(served, (images,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # the tracer raises errors of many kinds
        raise FaultError(
            f"{name} cannot be exported as a graph ({first_line(error)}): take "
            "engine=eager or engine=compiled"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to a length that fits into a line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:200]}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the remarks of exporters and compilers to themselves: none of them can be acted on."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
