"""Variance and covariance regularisation, an alternative guard against collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from foretell.objective.ranks import mean_over_ranks


def variance_covariance(latents: Tensor, target: float = 1.0) -> tuple[Tensor, Tensor]:
    """The variance and covariance terms of VICReg (Bardes et al. 2022, arXiv 2105.04906, eq. 1 and 4).

    latents: (B, T, D), statistics over the batch, averaged over time steps; over several ranks those
    of the global batch. Variance: mean over dimensions of relu(target - sqrt(var + 1e-4)).
    Covariance: squared off-diagonal entries summed, divided by D. Population (1/B) moments.
    Returns two scalars.
    """
    x = latents.float().transpose(0, 1)
    with torch.autocast(latents.device.type, enabled=False):
        mean = mean_over_ranks(x.mean(1, keepdim=True))
        away = x - mean
        covariance = mean_over_ranks(away.transpose(1, 2) @ away / x.shape[1])
    variances = covariance.diagonal(dim1=1, dim2=2)
    variance = torch.relu(target - torch.sqrt(variances.clamp_min(0) + 1e-4)).mean()
    off_diagonal = covariance.pow(2).sum((1, 2)) - variances.pow(2).sum(1)
    return variance, (off_diagonal / x.shape[-1]).mean()


@torch.no_grad()
def latent_spread(latents: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation over all latents (B, T, N, D) of all ranks.

    1 is healthy, 0 collapse.
    """
    x = latents.float().flatten(0, -2)
    away = x - mean_over_ranks(x.mean(0))
    return mean_over_ranks(away.square().mean(0)).sqrt().mean()
