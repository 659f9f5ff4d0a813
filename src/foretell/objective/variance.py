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
    mean = mean_over_ranks(x.mean(1, keepdim=True))
    second = mean_over_ranks(x.transpose(1, 2) @ x / x.shape[1])
    covariance = second - mean.transpose(1, 2) @ mean
    variances = covariance.diagonal(dim1=1, dim2=2)
    variance = torch.relu(target - torch.sqrt(variances.clamp_min(0) + 1e-4)).mean()
    off_diagonal = covariance.pow(2).sum((1, 2)) - variances.pow(2).sum(1)
    return variance, (off_diagonal / x.shape[-1]).mean()


def latent_spread(latents: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation over all latents (B, T, N, D); 1 is healthy, 0 collapse."""
    return latents.detach().float().flatten(0, -2).std(0, correction=0).mean()
