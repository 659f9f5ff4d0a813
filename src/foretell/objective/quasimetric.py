"""Learning temporal distance from transitions alone: stretch all distances, hold each step to one."""

from __future__ import annotations

import torch
from torch import Tensor


def stretch(distances: Tensor, reach: float) -> Tensor:
    """The term that pushes states apart: mean of softplus((reach - d) / s) * s with s = reach / 10.

    distances: (B,) latent steps between states of one episode; beyond `reach` the push fades
    (quasimetric reinforcement learning, Wang et al. 2023, arXiv 2304.01203, eq. 10).
    """
    sharpness = 10.0 / reach
    return torch.nn.functional.softplus(reach - distances, beta=sharpness).mean()


def excess(steps: Tensor) -> Tensor:
    """The constraint's violation: mean of relu(d - 1)^2 over distances (B,) of single latent steps (eq. 9)."""
    return torch.relu(steps - 1.0).square().mean()
