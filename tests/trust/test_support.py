"""Plan support: ordinary plans stay, plans that leave are told where, and a planner can be kept inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foretell.errors import DataError, SpecError
from foretell.model.checkpoint import load, save
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.planning import CEM, Controller, ControllerConfig
from foretell.trust.support import BLOCKS, Leaves, Support, calibrate_support, fit_support
from tests.trust.samples import SPEC

BLOCK, LEVEL = 2, 0.1
Walks = list[tuple[Tensor, Tensor]]


class Adds(nn.Module):
    """Predicts exactly: a point moves by its actions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(1, 1)

    def forward(self, latents: Tensor, actions: Tensor, present: Tensor) -> Tensor:
        return latents[..., -1, :] + actions[..., -1, :].unflatten(-1, (BLOCK, -1)).sum(-2)


def world() -> WorldModel:
    model = WorldModel(SPEC, ModelConfig(latent=2, block=BLOCK, stem=4, features=8, width=8, depth=1)).eval()
    model.predictor = Adds()  # type: ignore[assignment]
    return model


def walks(count: int, seed: int, steps: int = 40) -> Walks:
    """On the left of x = 0 nobody ever goes up by more than 0.2, on the right by up to 1; all stay within 3."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        place = rng.uniform(-3, 3, 2)
        path, taken = [place], []
        for _ in range(steps):
            push = rng.uniform(-1, 1, 2)
            push[1] = push[1] if place[0] > 0 else min(push[1], 0.2)
            push = np.clip(place + push, -3, 3) - place
            place = place + push
            path.append(place)
            taken.append(push)
        found.append((torch.tensor(np.array(path)).float()[:, None], torch.tensor(np.array(taken)).float()))
    return found


@pytest.fixture(scope="module")
def made() -> Support:
    fitted = fit_support(world(), *zip(*walks(80, 1), strict=True), seed=0)  # type: ignore[arg-type]
    return calibrate_support(fitted, world(), walks(100, 2), seed=0)


def plan(start: tuple[float, float], pushes: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Latents (K + 1, 1, 2) and blocks (K, BLOCK * 2)."""
    acts = torch.tensor(pushes)
    path = torch.cat([torch.tensor([start]), torch.tensor(start) + acts.cumsum(0)])
    return path[::BLOCK, None], acts.reshape(-1, BLOCK * 2)


def test_at_most_the_level_of_ordinary_plans_leave(made: Support) -> None:
    told = 0
    for latents, actions in walks(300, 3, steps=BLOCKS * BLOCK):
        told += bool(made.leaves(latents[::BLOCK], actions.reshape(BLOCKS, -1), level=LEVEL))
    # The upper end of a 99.9% interval of a share of 0.1 in 300, of the plans and of the calibration.
    assert told / 300 <= LEVEL + 3.1 * np.sqrt(LEVEL * (1 - LEVEL) * (1 / 300 + 1 / 100))


def test_it_says_at_which_step_states_are_left(made: Support) -> None:
    found = made.leaves(*plan((2.5, 0.0), [(1.0, 0.0)] * 8), level=LEVEL)
    first = next(f for f in found if f.what == "states")
    # Beyond x = 3 from the second step on; states are looked at after each block.
    assert first.step in (2, 4)
    assert first.p < LEVEL
    assert str(first).startswith(f"plan leaves the states seen in training at step {first.step} (p = 0.0")


def test_an_action_is_judged_by_where_it_is_taken(made: Support) -> None:
    right = made.leaves(*plan((1.5, -2.0), [(0.0, 0.9)] * 4), level=LEVEL)
    left = made.leaves(*plan((-1.5, -2.0), [(0.0, 0.1), (0.0, 0.1), (0.0, 0.9), (0.0, 0.9)]), level=LEVEL)
    assert not any(f.what == "actions" for f in right)
    assert [(f.what, f.step) for f in left] == [("actions", 3)]


def test_many_plans_at_once_are_as_each_alone(made: Support) -> None:
    several = [plan((2.5, 0.0), [(1.0, 0.0)] * 8), plan((0.0, 0.0), [(0.3, 0.0)] * 8)]
    latents, plans = (torch.stack(x)[None] for x in zip(*several, strict=True))
    cost = made.inside(2.0, level=LEVEL)(latents, plans)
    assert cost.shape == (1, 2)
    alone = [made.inside(2.0, level=LEVEL)(z[None, None], a[None, None]).item() for z, a in several]
    assert cost[0].tolist() == pytest.approx(alone)
    assert alone[0] > 0 == alone[1]


def test_a_controller_kept_inside_goes_no_further_than_training(made: Support) -> None:
    reach = {}
    for name, inside in (("free", None), ("inside", made.inside(1000.0, level=LEVEL))):
        controller = Controller(
            world(),
            CEM(samples=128, iterations=4, elites=16),
            ControllerConfig(horizon=4, replan_every=2),
            inside=inside,
        )
        # As far to the right as it can get, from the edge of what was seen.
        state = controller.start(lambda z: -z[..., 0, 0], generator=torch.Generator().manual_seed(0), batch=1)
        controller._encode = lambda *_: torch.tensor([[[2.0, 0.0]]])  # type: ignore[method-assign]
        shown = {"camera": torch.zeros(1, 16, 16, 3, dtype=torch.uint8), "place": torch.zeros(1, 2)}
        _, state = controller.step(shown, state)
        assert state.imagined is not None
        reach[name] = float(state.imagined[0, :, 0, 0].max())
    assert reach["free"] > 6
    assert reach["inside"] < 3.7


def test_it_travels_with_a_run(made: Support, tmp_path: Path) -> None:
    save(tmp_path, WorldModel(SPEC, world().config), {"support": made})
    back = load(tmp_path).parts["support"]
    assert isinstance(back, Support)
    z, a = plan((2.5, 0.0), [(1.0, 0.0)] * 8)
    assert back.leaves(z, a, level=LEVEL) == made.leaves(z, a, level=LEVEL) != ()


def test_what_cannot_be_told_is_refused(made: Support) -> None:
    z, a = plan((0.0, 0.0), [(0.3, 0.0)] * 8)
    with pytest.raises(DataError, match=r"plan support: a level of 0\.005 needs at least 199 calibration episodes"):
        made.leaves(z, a, level=0.01)
    with pytest.raises(SpecError, match="weight of 0 or more"):
        made.inside(-1.0)
    with pytest.raises(SpecError, match="not a plan support"):
        Support.from_json({"latent": 2})
    with pytest.raises(SpecError, match="support: block must be a whole number of at least 1"):
        Support(latent=2, action=2, block=0, states=1, blocks=1)
    with pytest.raises(DataError, match="two episodes of more than 2 steps"):
        fit_support(world(), *zip(*walks(3, 1, steps=1), strict=True), seed=0)  # type: ignore[arg-type]
    fitted = fit_support(world(), *zip(*walks(4, 1), strict=True), seed=0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="calibration episodes of more than 26 steps"):
        calibrate_support(fitted, world(), walks(3, 2, steps=10), seed=0)


def test_a_reason_for_people() -> None:
    said = str(Leaves(12, "actions", 0.0004))
    assert said == "plan leaves the actions seen in training at step 12 (p = 0.0004)"
