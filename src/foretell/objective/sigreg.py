"""SIGReg: latents pressed towards an isotropic Gaussian, the explicit guard against collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from foretell.objective.ranks import mean_over_ranks

KNOTS = 17
REACH = 3.0


def sigreg(latents: Tensor, slices: int, generator: torch.Generator) -> Tensor:
    """Sketched isotropic Gaussian regularisation (LeJEPA, Balestriero & LeCun 2025, arXiv 2511.08544).

    latents: (B, T, D). Each time step is projected on `slices` random unit directions; each
    projection's empirical characteristic function over the batch is compared with the standard
    normal's by the Epps-Pulley statistic, a trapezoid over 17 knots of [0, 3] with weight exp(-t^2/2),
    doubled for symmetry. Averaged over slices and time steps and *not* multiplied by the batch size,
    so the weight means the same at every batch size. Over several ranks the characteristic function
    is that of the global batch. Returns a scalar.
    """
    directions = torch.randn(latents.shape[-1], slices, generator=generator, device=generator.device)
    directions = (directions / directions.norm(dim=0)).to(latents)
    knots = torch.linspace(0.0, REACH, KNOTS, device=latents.device)
    weights = torch.full_like(knots, 2 * REACH / (KNOTS - 1))
    weights[0] = weights[-1] = REACH / (KNOTS - 1)
    normal = torch.exp(-0.5 * knots**2)
    # Sums over a batch lose in low precision what tells a Gaussian from its neighbours.
    with torch.autocast(latents.device.type, enabled=False):
        angles = (latents.float() @ directions.float())[..., None] * knots
        real, imaginary = mean_over_ranks(torch.stack([angles.cos().mean(0), angles.sin().mean(0)]))
        statistic = ((real - normal) ** 2 + imaginary**2) @ (weights * normal)
    return torch.as_tensor(statistic.mean())
