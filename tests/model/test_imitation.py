"""Imitation: shapes, configuration, and eyes that travel with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foretell.errors import CheckpointError, SpecError
from foretell.model import checkpoint
from foretell.model.imitation import Imitation, ImitationConfig
from tests.model.samples import SPEC, model, statistics

CONFIG = ImitationConfig(latent=6, action=2, ahead=3, width=8)


def test_it_tells_as_many_actions_as_asked_for_whatever_comes_before() -> None:
    policy = Imitation(CONFIG)
    now, goal = torch.randn(4, 5, 2, 3), torch.randn(4, 5, 2, 3)
    told = policy(now, goal)
    assert told.shape == (4, 5, 6)
    torch.testing.assert_close(told[1, 2], policy(now[1, 2], goal[1, 2]))
    assert not torch.allclose(told, policy(goal, now))


def test_it_travels_with_a_model_and_brings_its_own_eyes(tmp_path: Path) -> None:
    world = model(statistics=statistics())
    eyes = model(statistics=statistics())
    config = ImitationConfig(latent=eyes.config.latent, action=SPEC.action.size, width=8)
    parts = {"imitation.inverse_dynamics": Imitation(CONFIG), "imitation.cloning": Imitation(config, eyes)}
    checkpoint.save(tmp_path / "run", world, parts)
    found = checkpoint.load(tmp_path / "run").parts
    for name, part in parts.items():
        mine, theirs = part.state_dict(), found[name].state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert found["imitation.cloning"].eyes.spec == SPEC
    assert found["imitation.inverse_dynamics"].eyes is None


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="latent"):
        Imitation(ImitationConfig(latent=5, action=2), model())
    with pytest.raises(SpecError, match="ahead"):
        ImitationConfig(latent=1, action=1, ahead=0)
    for data in ({}, {"latent": 6, "action": 2, "ahead": 3, "width": 8, "eyes": None, "more": 1}):
        with pytest.raises(SpecError, match="imitation"):
            Imitation.from_json(data)
    checkpoint.save(tmp_path / "run", model(), {"imitation.x": Imitation(CONFIG)})
    path = tmp_path / "run" / checkpoint.CONFIG
    path.write_text(path.read_text().replace('"ahead": 3', '"ahead": 4'))
    with pytest.raises(CheckpointError, match=r"imitation\.x"):
        checkpoint.load(tmp_path / "run")
