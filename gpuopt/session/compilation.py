"""Compiling the backbone of a classifier."""

import torch

from gpuopt.errors import InputError, nearest
from gpuopt.model import Classifier

__all__ = ["compile_backbone"]


def compile_backbone(model: Classifier, mode: str, backend: str) -> None:
    """Compile the backbone in place, so that the names of its weights in checkpoints stay.

    Args:
        model: Its backbone is compiled when it runs for the first time.
        mode: `off`, `default`, `reduce-overhead` or `max-autotune`.
        backend: One of torch's.

    Raises:
        InputError: When there is no such backend.
    """
    if mode == "off":
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(f"compile.backend={backend}: no such backend{nearest(backend, known)}")
    model.backbone.compile(mode=None if mode == "default" else mode, backend=backend)
