"""Practice in imagination: who has practised arrives, round a wall too, and says how long it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.errors import DataError, SpecError
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import ActionSpec, Channel, Spec
from foretell.training import TrainConfig
from foretell.training.practice import Practice, _States, practise
from tests.training.samples import Exact

SPEC = Spec(
    observations=(Channel(name="place", kind="vector", shape=(2,)),),
    action=ActionSpec(names=("dx", "dy"), low=(-0.5, -0.5), high=(0.5, 0.5)),
)
QUICK = Practice(steps=2, batch=8, horizon=2, candidates=16, updates=1, reach=6, length=6, width=8, depth=1, scale=0.3)


def moved(place: Tensor, action: Tensor) -> Tensor:
    """A square from -1.5 to 1.5 whose wall at x = 0 is open above y = 0.5."""
    to = (place + action).clamp(-1.5, 1.5)
    shut = (place[..., 1] + to[..., 1]) / 2 < 0.5
    x, side = to[..., 0], torch.where(place[..., 0] < 0, -1.0, 1.0)
    x = torch.where(shut & (x * side < 0.05), 0.05 * side, x)
    return torch.stack([x, to[..., 1]], dim=-1)


def follows(place: Tensor, actions: Tensor) -> Tensor:
    """One block of two steps. Actions come normalised: by half their bound."""
    for a in 0.25 * actions[..., :2], 0.25 * actions[..., 2:]:
        place = moved(place, a)
    return place


def world(history: int = 1) -> WorldModel:
    model = WorldModel(SPEC, ModelConfig(latent=2, block=2, history=history, features=4, width=4, depth=1))
    model.get_buffer("scale_action").fill_(0.25)
    model.predictor = Exact(follows)  # type: ignore[assignment]
    return model


def walks(count: int, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    latents, actions = [], []
    for _ in range(count):
        path, push = [3 * torch.rand(2, generator=generator) - 1.5], 0.25 * torch.randn(steps, 2, generator=generator)
        push = push.clamp(-0.5, 0.5)
        for a in push:
            path.append(moved(path[-1], a))
        latents.append(torch.stack(path)[:, None])
        actions.append(push)
    return latents, actions


@pytest.mark.slow
def test_practice_leads_round_a_wall_and_knows_how_long_that_takes() -> None:
    """From one side of the wall, low, to the other: straight on nobody arrives."""
    latents, actions = walks(200, 20)
    config = Practice(
        steps=240, batch=128, horizon=3, candidates=32, updates=8, reach=16, elsewhere=0.6, length=12, width=48, depth=1
    )
    heads = practise(world(), latents, actions, config, seed=0)
    rng = np.random.default_rng(0)
    sides = rng.choice((-1.0, 1.0), 200)
    x, y = rng.uniform(0.4, 1.4, (2, 200)), rng.uniform(-1.4, 0.0, (2, 200))
    start = torch.tensor(np.stack([sides * x[0], y[0]], -1), dtype=torch.float32)
    goal = torch.tensor(np.stack([-sides * x[1], y[1]], -1), dtype=torch.float32)

    def arrived(straight: bool) -> float:
        place, there = start, torch.zeros(200, dtype=torch.bool)
        for _ in range(20):
            if straight:
                block = (goal - place).clamp(-0.5, 0.5).repeat(1, 2)
            else:
                block = 0.25 * heads.act(place[:, None], goal[:, None])
            for a in block[:, :2], block[:, 2:]:
                place = moved(place, a.clamp(-0.5, 0.5))
            there |= (place - goal).norm(dim=1) < 0.25
        return float(there.float().mean())

    assert arrived(straight=True) < 0.05
    assert arrived(straight=False) > 0.85
    across = heads.value(start[:, None], goal[:, None])
    beside = heads.value(start[:, None], (goal * torch.tensor([-1.0, 1.0]))[:, None])
    assert float((across > beside).float().mean()) > 0.9


def test_the_same_seed_gives_the_same_weights_and_steps_are_told() -> None:
    latents, actions = walks(4, 8)
    said: list[int] = []
    made = [practise(world(), latents, actions, QUICK, seed=seed, on_step=said.append) for seed in (1, 1, 2)]
    states = [torch.cat([p.flatten() for p in heads.parameters()]) for heads in made]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert said == [1, 2] * 3
    assert not any(p.requires_grad for p in made[0].parameters())


def test_it_goes_on_from_what_has_practised_before() -> None:
    latents, actions = walks(4, 8)
    first = practise(world(), latents, actions, QUICK, seed=1)
    none = Practice(**{**vars(QUICK), "steps": 0})
    again = practise(world(), latents, actions, none, seed=2, init=first)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("history", [1, 2, 3])
def test_models_that_look_back_practise_too(history: int) -> None:
    latents, actions = walks(4, 12)
    heads = practise(world(history), latents, actions, QUICK, seed=0, fast=history == 2)
    assert all(bool(p.isfinite().all()) for p in heads.parameters())


@settings(deadline=None, max_examples=25)
@given(history=st.integers(1, 3), seed=st.integers(0, 99), reach=st.integers(1, 30))
def test_ways_lead_from_recorded_states_to_others_of_their_episode_at_most_so_far_away(
    history: int, seed: int, reach: int
) -> None:
    """Values tell their step: tens are the episode, ones the step; an action tells the step that it begins at."""
    lengths = (7, 12, 9)
    latents = [
        10.0 * i + torch.arange(n).float().div(100)[:, None, None].expand(n, 1, 2) for i, n in enumerate(lengths)
    ]
    actions = [torch.arange(n - 1).float()[:, None].expand(n - 1, 2) / 100 for n in lengths]
    generator = torch.Generator().manual_seed(seed)
    states = _States(world(history), latents, actions, generator)
    context, past, goal = states.ways(Practice(batch=64, reach=reach, elsewhere=0.0))
    assert context.shape == (64, history, 1, 2)
    assert past.shape == (64, history - 1, 4)
    episode, step = (context[:, -1, 0, 0] / 10).round(), (context[..., 0, 0] % 10 * 100).round()
    assert torch.equal((goal[:, 0, 0] / 10).round(), episode)
    assert float(((goal[:, 0, 0] % 10 * 100).round() - step[:, -1]).abs().max()) <= max(reach, 0)
    assert bool((step.diff(dim=1) == 2).all())
    if history > 1:
        first = step[:, :-1, None] + torch.tensor([0.0, 0.0, 1.0, 1.0])
        assert torch.equal((100 * past).round(), first)


def test_goals_elsewhere_are_of_other_episodes() -> None:
    latents, actions = walks(50, 8)
    states = _States(world(), latents, actions, torch.Generator().manual_seed(0))
    near = states.ways(Practice(batch=2000, reach=2, elsewhere=0.0))
    far = states.ways(Practice(batch=2000, reach=2, elsewhere=1.0))
    apart = [float((goal - context[:, -1]).norm(dim=-1).mean()) for context, _, goal in (near, far)]
    assert apart[1] > 2 * apart[0]


def test_what_cannot_be_practised_is_told() -> None:
    latents, actions = walks(3, 1)
    with pytest.raises(DataError, match="more than 2 steps"):
        practise(world(), latents, actions, QUICK, seed=0)
    still = WorldModel(Spec(observations=SPEC.observations), ModelConfig(latent=2, features=4, width=4, depth=1))
    with pytest.raises(SpecError, match="names no actions"):
        practise(still, latents, actions, QUICK, seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", -1), ("batch", 0), ("candidates", 8), ("horizon", 0), ("learning_rate", 0.0), ("elsewhere", 1.5)],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(SpecError, match=f"practice: .*{name}"):
        Practice(**{name: value})  # type: ignore[arg-type]


def test_what_is_asked_for_is_checked_before_anything_is_trained() -> None:
    with pytest.raises(SpecError, match=r"hurry in \[0, 1\]"):
        Practice(hurry=1.5)
    with pytest.raises(SpecError, match="near: numbers of 0 or more"):
        Practice(near=(-1.0,))
    with pytest.raises(SpecError, match="weights: at most 2 numbers"):
        TrainConfig(model=ModelConfig(latent=2), practice=Practice(weights=(1.0,) * 3))
