"""Plans to begin a search with: what a policy by imitation, or one that has practised, would do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.actor_critic import ActorCritic
from foretell.model.imitation import Imitation
from foretell.model.world_model import WorldModel
from foretell.planning.controller import Propose


def imitated(model: WorldModel, imitation: Imitation, horizon: int) -> Propose:
    """Offers one plan of `horizon` blocks: what goal-conditioned inverse dynamics does, block by block, in the model's
    imagination.

    A search that begins there needs few candidates (policy priors in planning: Hansen et al. 2022, "Temporal difference
    learning for model predictive control", arXiv 2203.04955). Where the goal is a cost there is nothing to imitate, and
    no plan is offered. SpecError where the policy sees with eyes of its own or tells another number of raw actions than
    a block has.
    """
    block, size = model.config.block, model.spec.action.size
    if imitation.eyes is not None or imitation.config.ahead != block or imitation.config.action != size:
        raise SpecError(
            f"proposals: inverse dynamics of {block} raw actions of {size} on the model's latents expected, got"
            f" {imitation.config}"
        )
    return _acting(model, imitation, horizon)


def practised(model: WorldModel, actor_critic: ActorCritic, horizon: int) -> Propose:
    """The same of an actor that has practised in the model's imagination."""
    return _acting(model, actor_critic.act, horizon)


def _acting(model: WorldModel, act: Callable[[Tensor, Tensor], Tensor], horizon: int) -> Propose:
    """act: latents (B, N, D) and goals (B, N, D) -> a block of normalised actions (B, block * A)."""
    block, size = model.config.block, model.spec.action.size
    low, high = (
        torch.tensor(ends, dtype=torch.float32).repeat(block)
        for ends in (model.spec.action.low, model.spec.action.high)
    )

    def propose(context: Tensor, past: Tensor, goal: Tensor | None) -> Tensor:
        if goal is None:
            return context.new_zeros(len(context), 0, horizon, block * size)
        plan: list[Tensor] = []
        while len(plan) < horizon:
            if plan:
                context, past = model.after(context, past, plan[-1])
            told = model.raw_actions(act(context[:, -1], goal))
            plan.append(told.clamp(low.to(told), high.to(told)))
        return torch.stack(plan, dim=1)[:, None]

    return propose
