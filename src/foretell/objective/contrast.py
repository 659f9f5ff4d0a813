"""Telling episodes apart by what stays constant in them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from foretell.objective.ranks import gathered


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4) between two looks at each of B episodes.

    first, second: (B, C), row i of both from episode i. The critic is -|a - b|^2 / 2, a channel with unit noise: what
    has unit variance is told apart by as many independent factors as there are, not by one finely. Averaged over
    both directions; over several ranks the other episodes are those of the global batch. Returns a scalar.
    """
    with torch.autocast(first.device.type, enabled=False):
        sides = (first.float(), second.float())
        losses = []
        for here, there in (sides, sides[::-1]):
            others, start = gathered(there)
            logits = -0.5 * (here[:, None] - others[None]).square().sum(-1)
            losses.append(functional.cross_entropy(logits, start + torch.arange(len(here), device=here.device)))
    return torch.as_tensor((losses[0] + losses[1]) / 2)
