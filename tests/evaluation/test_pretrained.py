"""Models that ship: small, whole, described, made by their recipe, and able to say how far to trust them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foretell.errors import CheckpointError, SpecError
from foretell.evaluation import pretrained as shipped
from foretell.evaluation.experiment import EPISODES, RUN, Experiment, Silent, record_world, train_stages
from foretell.evaluation.pretrained import FOLDER, LARGEST, folder_of, names, objective_of, opened, pretrained, ship
from foretell.evaluation.recipes import RECIPES
from foretell.evaluation.suite import EvaluationConfig, controller_for, floors_for
from foretell.evaluation.trust import PART
from foretell.model.checkpoint import WEIGHTS
from foretell.model.imitation import Imitation
from foretell.planning import CEM, ControllerConfig
from foretell.training import TrainConfig
from foretell.trust.calibration import Calibration
from tests.training.samples import SMALL


@pytest.mark.parametrize("name", sorted(p.name for p in FOLDER.iterdir()))
def test_every_model_that_ships_is_small_whole_and_described(name: str) -> None:
    assert name in names()
    folder = FOLDER / name
    assert {p.name for p in folder.iterdir()} == {"card.md", "config.json", "model.safetensors"}
    assert (folder / "model.safetensors").stat().st_size <= LARGEST
    found, recipe = pretrained(name), RECIPES[name]
    assert found.model.config == recipe.training.model
    assert isinstance(found.parts[PART], Calibration)
    assert isinstance(found.parts["imitation.inverse_dynamics"], Imitation)
    assert ("temporal_distance" in found.parts) == (recipe.training.distance.steps > 0)
    assert ("actor_critic" in found.parts) == (recipe.training.practice.steps > 0)
    card = (folder / "card.md").read_text()
    for part in ("## How it was made", "## What it reaches", "## How far to trust it", "## What it does not know"):
        assert part in card, part
    assert f"python -m benchmarks.robots --world {name} --train" in card
    assert "/tmp" not in card


def test_a_model_that_ships_plans_in_its_world() -> None:
    """Two rooms need no simulator of others."""
    found = pretrained("two_rooms_random")
    world = found.world()
    found.model.spec.require(world.spec, "world")
    scenes = world.task(offset=10).reset([1, 2])
    controller = controller_for(found.model, found.parts, found.recipe.evaluation)
    goal = {n: torch.from_numpy(x) for n, x in scenes.goal.items()}
    state = controller.start(goal, generator=torch.Generator().manual_seed(0))
    actions, _ = controller.step({n: torch.from_numpy(x) for n, x in scenes.observations.items()}, state)
    assert actions.shape == (2, 2)
    assert np.abs(actions.numpy()).max() <= 2


def test_what_does_not_ship_is_told() -> None:
    with pytest.raises(SpecError, match=r"no pretrained model 'moon': there are .*two_rooms_random"):
        pretrained("moon")
    with pytest.raises(CheckpointError, match="a run folder, or one of"):
        folder_of("moon")
    assert objective_of("moon") is None
    assert objective_of("two_rooms_random") == RECIPES["two_rooms_random"].training.objective
    assert folder_of("two_rooms_random") == FOLDER / "two_rooms_random"


def test_a_run_of_the_same_name_comes_first_but_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reacher").mkdir()
    assert folder_of("reacher") == FOLDER / "reacher"
    assert objective_of("reacher") == RECIPES["reacher"].training.objective
    (tmp_path / "reacher" / "config.json").write_text("{}")
    assert folder_of("reacher") == Path("reacher")
    assert objective_of("reacher") is None


def test_what_ships_of_a_run_is_opened_and_planned_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainConfig(**{**vars(SMALL), "steps": 4, "holdout": 0.4})
    recipe = Experiment(
        world="two_rooms",
        options={"episode_steps": 24},
        episodes=10,
        training=training,
        evaluation=EvaluationConfig(
            task={"offset": 5},
            planner=CEM(samples=8, iterations=1, elites=2),
            controller=ControllerConfig(horizon=2),
            episodes=2,
        ),
    )
    record_world(recipe, tmp_path, seed=0, listener=Silent())
    train_stages(recipe, tmp_path, seed=0, listener=Silent())
    ship(tmp_path / RUN, tmp_path / "shipped", seed=0, reach=10, steps=5, cloning_steps=3, command="make it")
    monkeypatch.setattr(shipped, "RECIPES", {"tiny": recipe})
    found = opened("tiny", tmp_path / "shipped")
    assert {p.name for p in (tmp_path / "shipped").iterdir()} == {"card.md", "config.json", "model.safetensors"}
    assert set(floors_for(found.model, found.parts, None, seed=0)) == {
        "random",
        "straight",
        "inverse_dynamics",
        "cloning",
    }
    card = (tmp_path / "shipped" / "card.md").read_text()
    assert "make it" in card
    assert (tmp_path / EPISODES).exists()
    whole = (tmp_path / "shipped" / WEIGHTS).stat().st_size
    monkeypatch.setattr(shipped, "LARGEST", whole - 1)
    left = ship(tmp_path / RUN, tmp_path / "smaller", seed=0, reach=10, steps=5, cloning_steps=3, command="make it")
    assert set(left) == {"support"}
    assert set(opened("tiny", tmp_path / "smaller").parts) == set(found.parts) - {"support"}
    assert "Plan support: no" in (tmp_path / "smaller" / "card.md").read_text()
    monkeypatch.setattr(shipped, "_FIRST_TO_GO", ("intervals",))
    left = ship(tmp_path / RUN, tmp_path / "other", seed=0, reach=10, steps=5, cloning_steps=3, command="make it")
    assert set(left) == {n for n in found.parts if n.startswith("intervals.")} != set()
    assert "Intervals around: none. Plan support: yes" in (tmp_path / "other" / "card.md").read_text()
    monkeypatch.setattr(shipped, "LARGEST", 1000)
    with pytest.raises(CheckpointError, match="at most 1,000 bytes to ship expected"):
        ship(tmp_path / RUN, tmp_path / "none", seed=0, reach=10, steps=5, cloning_steps=3, command="make it")
    assert not (tmp_path / "none").exists()
