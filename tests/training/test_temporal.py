"""The temporal distance learned on frozen latents: shortest ways, also where no single episode has gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from foretell.errors import DataError, SpecError
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import ActionSpec, Channel, Spec
from foretell.training.temporal import DistanceFit, fit_distance
from tests.training.samples import Exact

SPEC = Spec(
    observations=(Channel(name="place", kind="vector", shape=(2,), fields=("x", "y"), units=("m", "m")),),
    action=ActionSpec(names=("dx", "dy"), units=("m", "m"), low=(-1.0, -1.0), high=(1.0, 1.0)),
)
SIDE = 6.0


def moved(place: Tensor, action: Tensor) -> Tensor:
    """A square of 6 x 6 with a wall from x = 2.5 to 3.5 that is open above y = 4; first along x, then along y."""
    x, y = place.unbind(-1)
    to = (x + action[..., 0]).clamp(0, SIDE)
    x = torch.where(y >= 4, to, torch.where(x < 3, to.clamp(max=2.5), to.clamp(min=3.5)))
    inside = (x > 2.5) & (x < 3.5)
    y = (y + action[..., 1]).clamp(0, SIDE)
    return torch.stack([x, torch.where(inside, y.clamp(min=4), y)], dim=-1)


def latent(place: Tensor) -> Tensor:
    """(..., 3): the place, and the side of the wall, without which a step across is hard to tell from one along."""
    return torch.cat([place, ((place[..., :1] - 3) / 0.5).clamp(-1, 1)], dim=-1)


def world() -> WorldModel:
    model = WorldModel(SPEC, ModelConfig(latent=3, block=1, features=4, width=4, depth=1))
    model.predictor = Exact(lambda z, a: latent(moved(z[..., :2], a)))  # type: ignore[assignment]
    return model


def walks(count: int, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    latents, actions = [], []
    for _ in range(count):
        x, y = torch.rand(2, generator=generator).tolist()
        place = torch.tensor([2.5 * 2 * x if x < 0.5 else 3.5 + 2.5 * (2 * x - 1), SIDE * y])
        push = 2 * torch.rand(steps, 2, generator=generator) - 1
        push = (1.5 * push).clamp(-1, 1)
        path = [place]
        for a in push:
            path.append(moved(path[-1], a))
        latents.append(latent(torch.stack(path))[:, None])
        actions.append(push)
    return latents, actions


def shortest(points: np.ndarray[Any, Any], goal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Steps on a fine grid, eight ways, by Dijkstra."""
    n = 61
    axis = np.linspace(0, SIDE, n)
    x, y = (g.ravel() for g in np.meshgrid(axis, axis, indexing="ij"))
    wall = (x > 2.5) & (x < 3.5) & (y < 4)
    cells = np.arange(n * n).reshape(n, n)
    rows, cols = [], []
    for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
        a = cells[: n - dx, max(0, -dy) : n - max(0, dy)].ravel()
        b = cells[dx:, max(0, dy) : n + min(0, dy)].ravel()
        free = ~(wall[a] | wall[b])
        rows.append(a[free])
        cols.append(b[free])
    row, col = np.concatenate(rows), np.concatenate(cols)
    graph = coo_matrix((np.full(len(row), axis[1]), (row, col)), (n * n, n * n))
    nearest = lambda p: int(np.argmin((x - p[0]) ** 2 + (y - p[1]) ** 2))  # noqa: E731
    found = dijkstra(graph, directed=False, indices=nearest(goal))
    return np.array([found[nearest(p)] for p in points])


@pytest.mark.slow
def test_it_is_the_length_of_the_shortest_way_round_the_wall() -> None:
    latents, actions = walks(200, 12)
    head = fit_distance(world(), latents, actions, DistanceFit(steps=600, batch=256, reach=15.0, width=64), seed=0)
    rng = np.random.default_rng(0)
    goal = np.array([5.5, 0.5])
    points = np.concatenate(
        [rng.uniform((0.2, 0.2), (2.4, 5.8), (40, 2)), rng.uniform((3.6, 0.2), (5.8, 5.8), (40, 2))]
    )
    z, g = (latent(torch.from_numpy(p).float().view(-1, 1, 2)) for p in (points, goal))
    found = head.between(head.embedding(z), head.embedding(g)).numpy()
    true = shortest(points, goal)
    straight = np.abs(points - goal).max(1)
    assert np.corrcoef(found, true)[0, 1] > np.corrcoef(straight, true)[0, 1] + 0.05
    behind = (points[:, 0] < 2.5) & (points[:, 1] < 4)
    assert np.mean(found[behind]) > np.mean(straight[behind]) + 0.5
    with torch.no_grad():
        start = latent(torch.tensor([[1.5, 5.0], [4.0, 1.0]]))[:, None]
        after = latent(moved(torch.tensor([[1.5, 5.0], [4.0, 1.0]]), torch.ones(2, 2)))[:, None]
        steps = head.between(head.embedding(start), head.embedding(after))
    assert steps.numpy() == pytest.approx(1.0, abs=0.35)


def test_the_same_seed_gives_the_same_distance_and_steps_are_told() -> None:
    latents, actions = walks(4, 6)
    said: list[int] = []
    made = [
        fit_distance(world(), latents, actions, DistanceFit(steps=3, batch=8, width=8), seed=seed, on_step=said.append)
        for seed in (1, 1, 2)
    ]
    states = [torch.cat([p.flatten() for p in head.parameters()]) for head in made]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert said == [1, 2, 3] * 3
    assert not any(p.requires_grad for p in made[0].parameters())


def test_episodes_of_one_block_teach_nothing() -> None:
    latents, actions = walks(3, 0)
    with pytest.raises(DataError, match="more than 1 steps"):
        fit_distance(world(), latents, actions, DistanceFit(steps=1), seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("batch", 0),
        ("paths", 0),
        ("reach", 0.0),
        ("lenient", 0.0),
        ("constraint", float("inf")),
        ("longest", 1.5),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(SpecError, match=f"distance: {name} must be"):
        DistanceFit(**{name: value})  # type: ignore[arg-type]
