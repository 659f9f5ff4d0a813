"""Residuals: what was seen minus what the model had predicted for it, over one block and over several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foretell.model.world_model import WorldModel


@dataclass(frozen=True)
class Residuals:
    """Of T raw steps, over 1 to K blocks; S = N * D.

    values: (T, K, S) latent seen minus latent predicted. given: (T, K, S + A) what the last step of the prediction
    started from: a latent, seen or imagined, and the normalised action block. NaN where no prediction reaches.
    """

    values: Tensor
    given: Tensor


@torch.no_grad()
def residuals(model: WorldModel, latents: Tensor, actions: Tensor, blocks: int) -> Residuals:
    """Residuals at every step of an episode, over 1 to `blocks` blocks open loop.

    latents: (T, N, D) of every raw step. actions: (T - 1 or more, A) raw.
    """
    block, history = model.config.block, model.config.history
    steps, size = len(latents), latents[0].numel()
    values = latents.new_full((steps, blocks, size), math.nan)
    given = latents.new_full((steps, blocks, size + model.action_size), math.nan)
    first = (history - 1) * block
    starts = torch.arange(first, max(first, steps - block))
    if not len(starts):
        return Residuals(values, given)
    context = latents[starts[:, None] + block * torch.arange(1 - history, 1)]
    before = starts[:, None] + torch.arange(-(history - 1) * block, 0)
    after = starts[:, None] + torch.arange(blocks * block)
    past = actions[before].reshape(len(starts), history - 1, model.action_size)
    # Actions after the end lead to predictions that nothing is compared with.
    plan = actions[after.clamp(max=steps - 2)].reshape(len(starts), blocks, model.action_size)
    here = [x.to(model.device) for x in (context, past, plan[:, None])]
    imagined = model.rollout(*here)[:, 0].flatten(2).to(latents)
    passed = torch.cat([latents[starts].flatten(1)[:, None], imagined[:, :-1]], dim=1)
    acts = model.normalise_actions(plan.to(model.device)).to(latents)
    for k in range(blocks):
        reached = starts + (k + 1) * block
        inside = reached < steps
        at = reached[inside]
        values[at, k] = latents[at].flatten(1) - imagined[inside, k]
        given[at, k] = torch.cat([passed[inside, k], acts[inside, k]], dim=-1)
    return Residuals(values, given)
