"""Prediction losses: open-loop error over several steps, and how straight latent paths are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from foretell.model.world_model import WorldModel


def open_loop(
    model: WorldModel, latents: Tensor, targets: Tensor, actions: Tensor, starts: Literal["first", "all"] = "all"
) -> Tensor:
    """Mean squared error of rollouts from steps of a window to its end, a scalar; arguments as in `open_loop_errors`.

    All predictions count alike.
    """
    return open_loop_errors(model, latents, targets, actions, starts)[0].mean()


def open_loop_errors(
    model: WorldModel, latents: Tensor, targets: Tensor, actions: Tensor, starts: Literal["first", "all"] = "all"
) -> tuple[Tensor, Tensor]:
    """Squared errors (B, P, N, D) of the P predictions that rollouts from steps of a window make, and the step of the
    window that each is about, (P,).

    latents: (B, T, N, D) to start from; targets: (B, T, N, D) to meet; actions: (B, T-1, block * A)
    raw. Step t is the context of a rollout through actions t .. T-2, and the steps before it are too, up
    to the model's history. starts: the steps that rollouts begin at: all, so that the window holds T-1
    one-step, T-2 two-step, ... predictions; or the first ones, as many as the history is long, the last of
    which has it whole.
    """
    count = latents.shape[1] - 1
    if starts == "first":
        count = min(count, model.config.history)
    errors, about = [], []
    for start, predicted in _rollouts(model, latents, actions, count):
        errors.append((predicted - targets[:, start + 1 :]).pow(2))
        about.append(torch.arange(start + 1, targets.shape[1]))
    return torch.cat(errors, dim=1), torch.cat(about).to(latents.device)


def _rollouts(model: WorldModel, latents: Tensor, actions: Tensor, starts: int) -> list[tuple[int, Tensor]]:
    """Pairs of starting step, the first `starts` ones, and latents (B, T-1-start, N, D) predicted from it."""
    steps = latents.shape[1]
    if model.config.history > 1:
        return [
            (t, model.rollout(latents[:, : t + 1], actions[:, :t], actions[:, None, t:])[:, 0]) for t in range(starts)
        ]
    # Without history all starts advance together: one call of the predictor per step.
    current = latents[:, :starts]
    found: list[list[Tensor]] = [[] for _ in range(starts)]
    for k in range(steps - 1):
        current = model.predict_each(current[:, : steps - 1 - k], actions[:, k : k + starts])
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
