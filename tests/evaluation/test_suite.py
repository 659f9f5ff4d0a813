"""The controller that is evaluated."""

from __future__ import annotations

import torch

from foretell.evaluation.suite import IMITATION, EvaluationConfig, controller_for
from foretell.model.actor_critic import ActorCritic, ActorCriticConfig
from foretell.model.imitation import Imitation, ImitationConfig
from foretell.planning import ControllerConfig
from tests.model.samples import ACTION, SPEC, model, observed


def test_its_search_begins_among_actions_as_large_as_recorded_ones_or_its_bounds() -> None:
    made = model(SPEC)
    half = (torch.tensor(ACTION.high) - torch.tensor(ACTION.low)) / 2
    assert half.isfinite().any()
    goal = {n: x[:, 0] for n, x in observed(SPEC, batch=1, steps=1, seed=0).items()}
    for share in (0.1, 3.0):
        spread = share * torch.where(half.isfinite(), half, 1.0)
        made.get_buffer("scale_action").copy_(spread)
        state = controller_for(made, {}, EvaluationConfig()).start(goal, generator=torch.Generator())
        torch.testing.assert_close(state.search.scale, torch.minimum(2 * spread, half).repeat(made.config.block))


def test_it_begins_with_what_is_imitated_if_it_is_to_and_there_is_something() -> None:
    made = model(SPEC)
    sizes = {"latent": made.config.latent, "action": SPEC.action.size, "width": 8}
    parts = {f"{IMITATION}.inverse_dynamics": Imitation(ImitationConfig(ahead=made.config.block, **sizes))}
    assert controller_for(made, parts, EvaluationConfig()).propose is None
    assert controller_for(made, {}, EvaluationConfig(imitate=True)).propose is None
    assert controller_for(made, parts, EvaluationConfig(imitate=True)).propose is not None


@torch.no_grad()
def test_who_has_practised_says_what_a_plan_costs_and_what_to_begin_with() -> None:
    torch.manual_seed(0)
    made = model(SPEC)
    size, block = made.config.latent, made.config.block * SPEC.action.size
    heads = ActorCritic(ActorCriticConfig(latent=size, action=block, width=8, depth=1))
    settings = ControllerConfig(horizon=3, terminal=7.0, discount=0.5, nearest=20.0)
    controller = controller_for(made, {"actor_critic": heads}, EvaluationConfig(controller=settings))
    plain = controller_for(made, {}, EvaluationConfig(controller=settings))
    assert plain.config == settings
    latents, goal = torch.randn(2, 4, 3, 1, size), torch.randn(2, 1, size)
    # Each block of a plan counts as the critic says, neither more nor less.
    assert (controller.config.terminal, controller.config.discount, controller.config.nearest) == (1, 1, 0)
    assert torch.equal(controller.distance(latents, goal), heads.along(latents, goal))
    assert controller.propose is not None
    past = latents.new_zeros(2, 0, block)
    offered = controller.propose(latents[:, 0, :1], past, goal)
    first = made.raw_actions(heads.act(latents[:, 0, 0], goal))
    assert offered.shape == (2, 1, 3, block)
    torch.testing.assert_close(offered[:, 0, 0], first)
