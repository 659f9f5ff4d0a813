"""Batch statistics over all ranks, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of `values` over all ranks, with its gradient; `values` itself on a single process.

    Each rank's loss is averaged over ranks afterwards (as data parallelism does), and the gradient
    through the sum over ranks is summed again in the backward pass, so both cancel.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = torch.as_tensor(_Sum.apply(values))  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


def gathered(values: Tensor) -> tuple[Tensor, int]:
    """Rows (B, F) of all ranks, in their order, (ranks * B, F), with their gradient; and where this rank's begin."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values, 0
    rank, size, count = distributed.get_rank(), distributed.get_world_size(), len(values)
    padded = functional.pad(values, (0, 0, rank * count, (size - 1 - rank) * count))
    return torch.as_tensor(_Sum.apply(padded)), rank * count  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    """The sum over ranks. Every rank's loss depends on it, so that their gradients add up."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total
