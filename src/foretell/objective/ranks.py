"""Batch statistics over all ranks, differentiable."""

from __future__ import annotations

from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of `values` over all ranks, with its gradient; `values` itself on a single process.

    Each rank's loss is averaged over ranks afterwards (as data parallelism does), and the gradient
    through the sum over ranks is summed again in the backward pass, so both cancel.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()
