"""Prediction losses: open-loop error over several steps, and how straight latent paths are."""

from __future__ import annotations

import torch
from torch import Tensor

from foretell.model.world_model import WorldModel


def open_loop(model: WorldModel, latents: Tensor, targets: Tensor, actions: Tensor) -> Tensor:
    """Mean squared error of rollouts from every step of a window to its end.

    latents: (B, T, N, D) to start from; targets: (B, T, N, D) to meet; actions: (B, T-1, block * A)
    raw. Step t is the context of a rollout through actions t .. T-2, so that the window holds T-1
    one-step, T-2 two-step, ... predictions; all count alike. Each starts from the steps before it
    too, up to the model's history. Returns a scalar.
    """
    steps = latents.shape[1]
    total, count = latents.new_zeros(()), 0
    for start, predicted in _rollouts(model, latents, actions):
        wanted = targets[:, start + 1 : start + 1 + predicted.shape[1]]
        total = total + (predicted - wanted).pow(2).mean((0, 2, 3)).sum()
        count += predicted.shape[1]
    assert count == steps * (steps - 1) // 2
    return total / count


def _rollouts(model: WorldModel, latents: Tensor, actions: Tensor) -> list[tuple[int, Tensor]]:
    """Pairs of starting step and latents (B, T-1-start, N, D) predicted from it."""
    steps = latents.shape[1]
    if model.config.history > 1:
        return [
            (t, model.rollout(latents[:, : t + 1], actions[:, :t], actions[:, None, t:])[:, 0])
            for t in range(steps - 1)
        ]
    # Without history all starts advance together: one call of the predictor per step.
    current = latents[:, :-1]
    found: list[list[Tensor]] = [[] for _ in range(steps - 1)]
    for k in range(steps - 1):
        current = model.predict_each(current[:, : steps - 1 - k], actions[:, k:])
        for start in range(current.shape[1]):
            found[start].append(current[:, start])
    return [(start, torch.stack(path, dim=1)) for start, path in enumerate(found)]


def straightness(latents: Tensor) -> Tensor:
    """1 - cosine of successive latent velocities (temporal straightening, arXiv 2603.12231), averaged.

    latents: (B, T, N, D) with T >= 3. Returns a scalar in [0, 2].
    """
    velocity = latents.flatten(2).diff(dim=1)
    cosine = torch.nn.functional.cosine_similarity(velocity[:, 1:], velocity[:, :-1], dim=-1, eps=1e-6)
    return 1.0 - cosine.mean()
