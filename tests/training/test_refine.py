"""Refining the predictor: it alone changes, and for the better."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import ActionSpec, Channel, Spec
from foretell.training.refine import Refine, _starts, refine_predictor

SPEC = Spec(
    observations=(Channel(name="place", kind="vector", shape=(2,), fields=("x", "y"), units=("m", "m")),),
    action=ActionSpec(names=("dx", "dy"), units=("m", "m"), low=(-1.0, -1.0), high=(1.0, 1.0)),
)


def model(history: int = 1, block: int = 2) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(SPEC, ModelConfig(latent=2, block=block, history=history, features=8, width=32, depth=1)).eval()


def walks(count: int, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Latents that are the sum of the actions so far."""
    generator = torch.Generator().manual_seed(1)
    actions = [torch.rand(steps, 2, generator=generator) * 2 - 1 for _ in range(count)]
    latents = [torch.cat([torch.zeros(1, 2), a.cumsum(0)])[: steps + 1, None] for a in actions]
    return latents, actions


@torch.no_grad()
def error(world: WorldModel, latents: list[Tensor], actions: list[Tensor], blocks: int = 3) -> float:
    block = world.config.block
    back = (world.config.history - 1) * block
    total = 0.0
    for z, a in zip(latents, actions, strict=True):
        context = z[0 : back + 1 : block][None]
        past = a[:back].reshape(1, world.config.history - 1, 2 * block)
        plan = a[back : back + blocks * block].reshape(1, 1, blocks, -1)
        wanted = z[back + block : back + blocks * block + 1 : block]
        total += float((world.rollout(context, past, plan)[0, 0] - wanted).square().mean())
    return total / len(latents)


@pytest.mark.parametrize("history", [1, 2])
def test_unseen_rollouts_become_better_and_only_the_predictor_changes(history: int) -> None:
    world = model(history)
    before = copy.deepcopy(world.state_dict())
    latents, actions = walks(40, 20)
    unseen = tuple(x[30:] for x in (latents, actions))
    was = error(world, *unseen)
    refine_predictor(world, latents[:30], actions[:30], Refine(steps=300, batch=64, blocks=3), seed=0)
    assert error(world, *unseen) < 0.02 * was
    for name, value in world.state_dict().items():
        assert name.startswith("predictor.") or torch.equal(value, before[name]), name
    assert not world.predictor.training


def test_single_predictions_teach_too_and_come_first() -> None:
    latents, actions = walks(40, 20)
    unseen = tuple(x[30:] for x in (latents, actions))
    world = model()
    was = error(world, *unseen, blocks=1)
    refine_predictor(world, latents[:30], actions[:30], Refine(single=300, steps=0, batch=64), seed=0)
    assert error(world, *unseen, blocks=1) < 0.02 * was
    lengths: list[int] = []
    world.rollout = lambda context, past, plan: (
        lengths.append(plan.shape[2])
        or WorldModel.rollout(  # type: ignore[method-assign, func-returns-value]
            world, context, past, plan
        )
    )
    refine_predictor(world, latents, actions, Refine(single=2, steps=3, batch=4, blocks=3), seed=0)
    assert lengths == [1, 1, 3, 3, 3]


def test_what_cannot_be_foretold_misleads_less_where_large_errors_do_not_count_squared() -> None:
    latents, actions = walks(40, 20)
    unseen = tuple(x[30:] for x in (latents, actions))
    generator = torch.Generator().manual_seed(0)
    wild = [z + 20 * torch.randn(z.shape, generator=generator) * (i < 3) for i, z in enumerate(latents[:30])]
    found = []
    for huber in (0.0, 0.05):
        world = model()
        refine_predictor(world, wild, actions[:30], Refine(steps=300, batch=64, blocks=3, huber=huber), seed=0)
        found.append(error(world, *unseen))
    assert found[1] < 0.5 * found[0]


def test_the_same_seed_gives_the_same_predictor() -> None:
    latents, actions = walks(5, 20)
    found = []
    for seed in (0, 0, 1):
        world = model()
        refine_predictor(world, latents, actions, Refine(steps=3, batch=8), seed=seed)
        found.append(torch.cat([p.flatten() for p in world.predictor.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@given(st.lists(st.integers(1, 12), max_size=6), st.integers(0, 4), st.integers(1, 5))
def test_rollouts_start_wherever_their_episode_holds_them_and_nowhere_else(lengths, before, after) -> None:
    episode = [i for i, n in enumerate(lengths) for _ in range(n)]
    whole = [
        at
        for at in range(before, len(episode) - after)
        if len({episode[k] for k in range(at - before, at + after + 1)}) == 1
    ]
    assert _starts(lengths, before, after).tolist() == whole


@pytest.mark.parametrize(("steps", "length"), [(0, 20), (5, 6)])
def test_no_steps_or_no_episode_long_enough_change_nothing(steps: int, length: int) -> None:
    world = model()
    before = copy.deepcopy(world.state_dict())
    refine_predictor(world, *walks(3, length), Refine(steps=steps, blocks=5), seed=0)
    assert all(torch.equal(v, before[k]) for k, v in world.state_dict().items())


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"batch": 0}, {"blocks": 0}, {"huber": -1.0}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=f"refine: {next(iter(wrong))} must be"):
        Refine(**wrong)  # type: ignore[arg-type]
