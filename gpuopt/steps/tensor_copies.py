"""Copies of many small tensors, made anew in each step, with little work for the host."""

import operator

import torch
from torch import Tensor

__all__ = ["TensorCopies"]

Group = tuple[list[int], Tensor]
"""Some indices, and the numbers of their tensors one after another."""


class TensorCopies:
    """Copies mostly the same tensors over and over, those of one kind by one operation.

    To sort 150 of them by kind and to flatten them takes longer than all else that recovery does
    in a step, so it is remembered as long as they are the same tensors in the same memory.
    """

    def __init__(self) -> None:
        self._indices: list[int] = []
        self._tensors: list[Tensor] = []
        self._places: list[int] = []
        self._counted: list[Tensor | None] = []
        self._groups: list[tuple[list[int], list[Tensor]]] = []

    @torch.no_grad()
    def take(self, indices: list[int], tensors: list[Tensor]) -> list[Group]:
        """Copy tensors.

        Args:
            indices: A number for each of them.
            tensors: Of any shapes and kinds.
        """
        if not self._are_known(indices, tensors):
            self._sort(indices, tensors)
        return [(members, torch.cat(flat)) for members, flat in self._groups]

    def versions(self) -> list[int]:
        """Count the writes to each tensor that was copied last; -1 where that is not counted."""
        return [-1 if tensor is None else tensor._version for tensor in self._counted]

    def _are_known(self, indices: list[int], tensors: list[Tensor]) -> bool:
        return (
            indices == self._indices
            and all(map(operator.is_, tensors, self._tensors))
            and self._places == list(map(Tensor.data_ptr, tensors))
        )

    def _sort(self, indices: list[int], tensors: list[Tensor]) -> None:
        kinds: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
        for index, tensor in zip(indices, tensors, strict=True):
            kinds.setdefault((tensor.device, tensor.dtype), []).append((index, tensor.reshape(-1)))
        self._groups = [
            ([i for i, _ in kind], [flat for _, flat in kind]) for kind in kinds.values()
        ]
        self._counted = [None if tensor.is_inference() else tensor for tensor in tensors]
        # A flat copy, or a tensor without memory of its own, does not show what is written later.
        is_lasting = all(type(t) is Tensor and t.is_contiguous() for t in tensors)
        self._indices, self._tensors = (list(indices), list(tensors)) if is_lasting else ([], [])
        self._places = [tensor.data_ptr() for tensor in self._tensors]
