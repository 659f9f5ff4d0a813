"""Open-loop error against a plain double loop, and straightness of paths with known angles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.model.world_model import WorldModel
from foretell.objective.prediction import open_loop, straightness
from tests.model.samples import SPEC, STILL, actions, model


def moved(world: WorldModel) -> WorldModel:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in world.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return world


def naive(world: WorldModel, latents: torch.Tensor, targets: torch.Tensor, acts: torch.Tensor, starts: range) -> float:
    """Every start, every horizon, one episode and one prediction at a time."""
    batch, steps = latents.shape[:2]
    errors = []
    for b in range(batch):
        for start in starts:
            path = [latents[b, t] for t in range(start + 1)]
            for t in range(start, steps - 1):
                context = torch.stack(path)[None]
                path.append(world.predict(context, acts[b : b + 1, : t + 1])[0, -1])
                errors.append(float((path[-1] - targets[b, t + 1]).pow(2).mean()))
    return float(np.mean(errors))


@pytest.mark.parametrize("spec", [SPEC, STILL], ids=["acting", "still"])
@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize("steps", [2, 3, 5])
@torch.no_grad()
def test_open_loop_error_is_that_of_a_double_loop(spec: object, history: int, steps: int) -> None:
    world = moved(model(spec, history=history))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(steps)
    latents, targets = torch.randn(2, 2, steps, 1, 6, generator=generator)
    acts = actions(spec, 2, steps - 1)  # type: ignore[arg-type]
    found = open_loop(world, latents, targets, acts)
    assert float(found) == pytest.approx(naive(world, latents, targets, acts, range(steps - 1)), rel=1e-4)
    first = range(min(history, steps - 1))
    found = open_loop(world, latents, targets, acts, "first")
    assert float(found) == pytest.approx(naive(world, latents, targets, acts, first), rel=1e-4)


@pytest.mark.parametrize("history", [1, 2])
@torch.no_grad()
def test_open_loop_error_is_zero_of_what_the_model_itself_imagines(history: int) -> None:
    world = moved(model(history=history))
    start, acts = torch.randn(2, 1, 1, 6), actions(SPEC, 2, 4)
    path = torch.cat([start, world.rollout(start, acts[:, :0], acts[:, None])[:, 0]], dim=1)
    assert float(open_loop(world, path, path, acts)) < 1e-8
    assert float(open_loop(world, path, path + 0.5, acts)) == pytest.approx(0.25, rel=1e-3)


def test_open_loop_error_has_gradients_for_model_latents_and_targets() -> None:
    world = moved(model())
    latents, targets = torch.randn(2, 2, 4, 1, 6).requires_grad_().unbind(0)
    latents.retain_grad()
    targets.retain_grad()
    open_loop(world, latents, targets, actions(SPEC, 2, 3)).backward()
    assert latents.grad is not None
    assert targets.grad is not None
    # Nothing starts from the last step, and nothing ends at the first.
    assert (latents.grad.abs().sum((0, 2, 3)) > 0).tolist() == [True, True, True, False]
    assert (targets.grad.abs().sum((0, 2, 3)) > 0).tolist() == [False, True, True, True]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in world.predictor.parameters())


@given(angle=st.floats(0, math.pi), steps=st.integers(3, 8), speed=st.floats(0.1, 10.0), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_path_that_turns_by_an_angle_at_each_step(angle: float, steps: int, speed: float, seed: int) -> None:
    headings = angle * torch.arange(steps - 1, dtype=torch.float64)
    moves = speed * torch.stack([headings.cos(), headings.sin()], dim=1)
    path = torch.cat([torch.zeros(1, 2, dtype=torch.float64), moves.cumsum(0)])
    frame, _ = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    latents = (path @ frame.T + 5).view(1, steps, 2, 3)
    assert float(straightness(latents)) == pytest.approx(1 - math.cos(angle), abs=1e-5)


def test_episodes_count_alike_in_straightness() -> None:
    straight = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 1, 2)
    there_and_back = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1, 1).expand(1, 4, 1, 2)
    assert float(straightness(straight)) == pytest.approx(0, abs=1e-6)
    assert float(straightness(there_and_back)) == pytest.approx(2)
    assert float(straightness(torch.cat([straight, there_and_back]))) == pytest.approx(1)


def test_straightness_of_a_path_that_stands_still_is_finite_with_its_gradient() -> None:
    latents = torch.zeros(2, 4, 1, 3, requires_grad=True)
    found = straightness(latents)
    found.backward()
    assert found.isfinite()
    assert latents.grad is not None
    assert latents.grad.isfinite().all()
