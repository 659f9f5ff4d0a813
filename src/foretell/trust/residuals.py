"""Residuals: what was seen minus what was expected, over one block, over several, and over a single raw step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foretell.model.world_model import WorldModel


@dataclass(frozen=True)
class Residuals:
    """Of T raw steps, in V = K + 1 views: over 1 to K blocks, and over one raw step; S = N * D, A = block * actions.

    values: (T, V, S) latent seen minus latent predicted; of the raw step, minus the latent before: no predictor looks
    at less than a block, so that how far latents move in a step is for the law of residuals to learn.
    given: (T, V, 2 S + A) what the last step of the prediction started from: a latent, seen or imagined, how it had
    just moved (of the raw step only, 0 where unknown), and the normalised actions. NaN where no prediction reaches.
    """

    values: Tensor
    given: Tensor


@torch.no_grad()
def residuals(model: WorldModel, latents: Tensor, actions: Tensor, blocks: int) -> Residuals:
    """Residuals at every step of an episode, over 1 to `blocks` blocks open loop, and over one raw step.

    latents: (T, N, D) of every raw step. actions: (T - 1 or more, A) raw.
    """
    block = model.config.block
    steps, size = len(latents), latents[0].numel()
    values = latents.new_full((steps, blocks + 1, size), math.nan)
    given = latents.new_full((steps, blocks + 1, 2 * size + model.action_size), math.nan)
    starts, plan, imagined = imagined_from(model, latents, actions, blocks)
    imagined = imagined.flatten(2)
    passed = torch.cat([latents[starts].flatten(1)[:, None], imagined[:, :-1]], dim=1)
    acts = model.normalise_actions(plan.to(model.device)).to(latents)
    for k in range(blocks):
        reached = starts + (k + 1) * block
        inside = reached < steps
        at = reached[inside]
        values[at, k] = latents[at].flatten(1) - imagined[inside, k]
        given[at, k] = torch.cat([passed[inside, k], torch.zeros_like(values[at, k]), acts[inside, k]], dim=-1)
    flat = latents.flatten(1)
    moved = flat.diff(dim=0)
    values[1:, blocks] = moved
    done = actions[: steps - 1].reshape(steps - 1, model.spec.action.size).repeat(1, block)
    single = model.normalise_actions(done.to(model.device)).to(latents)
    single[:, model.spec.action.size :] = 0
    given[1:, blocks] = torch.cat([flat[:-1], torch.cat([torch.zeros_like(moved[:1]), moved[:-1]]), single], dim=-1)
    return Residuals(values, given)


@torch.no_grad()
def last_residuals(model: WorldModel, latents: Tensor, actions: Tensor, blocks: int) -> Residuals:
    """`residuals` of the last step alone, (1, V, ...): what a stream asks for at every step."""
    block, history, size = model.config.block, model.config.history, latents[0].numel()
    last, flat = len(latents) - 1, latents.flatten(1)
    values = latents.new_full((1, blocks + 1, size), math.nan)
    given = latents.new_full((1, blocks + 1, 2 * size + model.action_size), math.nan)
    begins = [last - k * block for k in range(1, blocks + 1) if last - k * block >= (history - 1) * block]
    starts = torch.tensor(begins, dtype=torch.long)
    _, plan, imagined = imagined_from(model, latents, actions, blocks, starts)
    acts, imagined = model.normalise_actions(plan.to(model.device)).to(latents), imagined.flatten(2)
    still = flat.new_zeros(size)
    for k in range(len(starts)):
        values[0, k] = flat[-1] - imagined[k, k]
        given[0, k] = torch.cat([imagined[k, k - 1] if k else flat[last - block], still, acts[k, k]])
    if last:
        values[0, blocks] = flat[-1] - flat[-2]
        done = actions[last - 1].repeat(block)
        single = model.normalise_actions(done.to(model.device)).to(latents)
        single[model.spec.action.size :] = 0
        given[0, blocks] = torch.cat([flat[-2], flat[-2] - flat[-3] if last > 1 else still, single])
    return Residuals(values, given)


@torch.no_grad()
def imagined_from(
    model: WorldModel, latents: Tensor, actions: Tensor, blocks: int, starts: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the model imagines, open loop, from every step of an episode that one more block follows, or from `starts`.

    Arguments as in `residuals`. Returns the steps (M,), the raw action blocks from each on (M, blocks, block * A) and
    the latents (M, blocks, N, D) that they lead to. Actions after the episode's end repeat its last: nothing was seen
    to compare with what they lead to.
    """
    block, history = model.config.block, model.config.history
    back, last = (history - 1) * block, len(latents) - 2
    starts = torch.arange(back, max(back, len(latents) - block)) if starts is None else starts
    context = latents[starts[:, None] + block * torch.arange(1 - history, 1)]
    past = actions[starts[:, None] + torch.arange(-back, 0)].reshape(len(starts), history - 1, model.action_size)
    after = (starts[:, None] + torch.arange(blocks * block)).clamp(max=max(last, 0))
    plan = actions[after].reshape(len(starts), blocks, model.action_size)
    if not len(starts):
        return starts, plan, latents.new_zeros(0, blocks, *latents.shape[1:])
    imagined = model.rollout(*(x.to(model.device) for x in (context, past, plan[:, None])))[:, 0]
    return starts, plan, imagined.to(latents)
