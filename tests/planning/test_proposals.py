"""Plans that a policy by imitation offers."""

from __future__ import annotations

import pytest
import torch

from foretell.errors import SpecError
from foretell.model.imitation import Imitation, ImitationConfig
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.planning.proposals import imitated
from foretell.spec import ActionSpec, Channel, Spec

SPEC = Spec(
    observations=(Channel(name="place", kind="vector", shape=(3,)),),
    action=ActionSpec(names=("push", "turn"), low=(-1.0, -2.0), high=(1.0, 2.0)),
    hz=10.0,
)
BLOCK, LATENT, PLAN = 3, 5, 4


def made(history: int) -> tuple[WorldModel, Imitation]:
    torch.manual_seed(0)
    model = WorldModel(SPEC, ModelConfig(latent=LATENT, block=BLOCK, history=history, features=16, width=16)).eval()
    model.get_buffer("mean_action").copy_(torch.tensor([0.3, -0.2]))
    model.get_buffer("scale_action").copy_(torch.tensor([0.5, 3.0]))
    return model, Imitation(ImitationConfig(latent=LATENT, action=2, ahead=BLOCK, width=16)).eval()


@pytest.mark.parametrize(("history", "seen"), [(1, 1), (2, 2), (3, 2), (3, 3)])
@torch.no_grad()
def test_each_block_is_what_the_policy_does_where_the_model_says_it_has_led(history: int, seen: int) -> None:
    """The model imagines the whole plan at once here, and block by block there."""
    model, policy = made(history)
    context, past = torch.randn(4, seen, 1, LATENT), torch.randn(4, seen - 1, BLOCK * 2)
    goal = torch.randn(4, 1, LATENT)
    plan = imitated(model, policy, PLAN)(context, past, goal)
    assert plan.shape == (4, 1, PLAN, BLOCK * 2)
    led = torch.cat([context[:, -1:], model.rollout(context, past, plan)[:, 0, :-1]], dim=1)
    raw = policy(led, goal[:, None].expand_as(led)) * torch.tensor([0.5, 3.0]).repeat(BLOCK)
    bounds = torch.tensor([1.0, 2.0]).repeat(BLOCK)
    wanted = torch.maximum(torch.minimum(raw + torch.tensor([0.3, -0.2]).repeat(BLOCK), bounds), -bounds)
    torch.testing.assert_close(plan[:, 0], wanted)
    assert plan[..., 1::2].abs().max() <= 2.0


def test_a_goal_that_is_a_cost_is_offered_nothing() -> None:
    model, policy = made(1)
    assert imitated(model, policy, PLAN)(torch.randn(2, 1, 1, LATENT), torch.zeros(2, 0, 6), None).shape[1] == 0


def test_policies_of_another_kind_are_refused() -> None:
    model, policy = made(1)
    other = Imitation(ImitationConfig(latent=LATENT, action=2, ahead=1, width=16))
    with pytest.raises(SpecError, match="3 raw actions of 2"):
        imitated(model, other, PLAN)
    with pytest.raises(SpecError, match="on the model's latents"):
        imitated(model, Imitation(policy.config, eyes=model), PLAN)
