"""An actor and a critic: what a way costs, told by themselves and step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foretell.errors import SpecError
from foretell.model import checkpoint
from foretell.model.actor_critic import ActorCritic, ActorCriticConfig
from foretell.model.world_model import ModelConfig, WorldModel
from tests.training.samples import SPEC

SIZES = ActorCriticConfig(latent=3, action=4, width=8, depth=1, weights=(1.0, 0.5), near=(2.0,), hurry=0.25, scale=0.5)


def made(config: ActorCriticConfig = SIZES, seed: int = 0) -> ActorCritic:
    torch.manual_seed(seed)
    found = ActorCritic(config)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return found.requires_grad_(False)


def by_hand(z: Tensor, goal: Tensor) -> tuple[float, float]:
    """Cost and share that goes on, value by value."""
    change = [(float(a) - float(b)) / 0.5 for a, b in zip(z.flatten(), goal.flatten(), strict=True)]
    q = sum((w * c) ** 2 for w, c in zip((1.0, 0.5, 1.0), change, strict=True))
    r = sum((w * c) ** 2 for w, c in zip((2.0, 1.0, 1.0), change, strict=True))
    on = 1 - 2.718281828459045 ** -(r**2)
    return 0.75 * q / (1 + q) + 0.25 * on, on


@given(seed=st.integers(0, 1000), blocks=st.integers(1, 5))
def test_a_way_costs_what_its_blocks_cost_until_one_has_arrived_and_then_what_the_critic_says(
    seed: int, blocks: int
) -> None:
    heads = made(seed=seed)
    latents, goal = torch.randn(2, 3, blocks, 1, 3) / 2, torch.randn(2, 1, 3) / 2
    found = heads.along(latents, goal).sum(-1)
    for b in range(2):
        for s in range(3):
            to_come = float(heads.value(latents[b, s, -1], goal[b]))
            for k in reversed(range(blocks)):
                cost, on = by_hand(latents[b, s, k], goal[b])
                to_come = cost + 0.97 * on * to_come
            assert float(found[b, s]) == pytest.approx(to_come, rel=1e-4, abs=1e-5)


@given(seed=st.integers(0, 1000), size=st.floats(0.01, 100))
def test_values_and_actions_have_bounds(seed: int, size: float) -> None:
    heads = made(seed=seed)
    now, goal = size * torch.randn(2, 5, 1, 3)
    assert float(heads.act(now, goal).abs().max()) <= 3
    assert bool(((heads.value(now, goal) >= 0) & (heads.value(now, goal) <= 1 / 0.03 + 1e-3)).all())
    cost, on = heads.step(now, goal)
    assert bool(((cost >= 0) & (cost <= 1) & (on >= 0) & (on <= 1)).all())


def test_who_has_arrived_pays_nothing_more() -> None:
    heads, goal = made(), torch.randn(1, 1, 3)
    cost, on = heads.step(goal, goal)
    assert float(cost) == float(on) == 0
    far = torch.randn(1, 1, 4, 1, 3)
    there = torch.cat([goal[:, None, None], far[:, :, 1:]], dim=2)
    assert float(heads.along(there, goal).sum()) == pytest.approx(0)
    assert float(heads.along(far, goal).sum()) > 1


def test_waiting_a_little_beside_does_not_pay() -> None:
    """Twice as far as counts as near, less than one in a thousand arrives."""
    heads = ActorCritic(ActorCriticConfig(latent=1, action=1, scale=0.2))
    _, on = heads.step(torch.tensor([[[0.1]], [[0.2]], [[0.4]]]), torch.zeros(3, 1, 1))
    assert on.tolist() == pytest.approx([1 - 0.9394, 1 - 0.3679, 1.0], abs=1e-4)


def test_they_travel_with_the_model(tmp_path: Path) -> None:
    model, heads = WorldModel(SPEC, ModelConfig(latent=3, block=2, features=8, width=8, depth=1)), made()
    checkpoint.save(tmp_path, model, {"actor_critic": heads})
    found = checkpoint.load(tmp_path).parts["actor_critic"]
    assert isinstance(found, ActorCritic)
    assert found.config == heads.config
    z, goal = torch.randn(2, 4, 1, 3)
    assert torch.equal(found.value(z, goal), heads.value(z, goal))
    assert torch.equal(found.act(z, goal), heads.act(z, goal))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"latent": 0}, "latent"),
        ({"weights": (1.0,) * 4}, "at most 3 numbers"),
        ({"near": (-1.0,)}, "near: at most 3 numbers of 0 or more"),
        ({"scale": 0.0}, "scale above 0"),
        ({"hurry": 1.5}, r"hurry in \[0, 1\]"),
        ({"discount": 1.0}, r"discount in \(0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ActorCriticConfig(**{"latent": 3, "action": 4, **wrong})  # type: ignore[arg-type]


def test_a_foreign_description_is_refused() -> None:
    with pytest.raises(SpecError, match=r"actor-critic: .*colour"):
        ActorCritic.from_json({"latent": 3, "action": 4, "colour": 1})
