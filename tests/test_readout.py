"""Readouts name quantities in their units, whatever the scale, and say nothing where nothing was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foretell.episodes.record import record
from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError, SpecError
from foretell.model.latents import encode_episodes
from foretell.model.readout import Readout
from foretell.readout import channel_values, fit_readout
from foretell.spec import Episode
from tests.evaluation.points import SPEC, Points, exact, recorded


def test_latents_are_those_of_the_model(tmp_path: Path) -> None:
    store = recorded(tmp_path / "points", 4)
    model = exact().train()
    latents = encode_episodes(model, store, [2, 0], stride=3)
    assert [z.shape for z in latents] == [(14, 1, 2)] * 2
    np.testing.assert_allclose(latents[0][:, 0], store[2].observations["sensor"][::3])
    assert model.training
    assert encode_episodes(model, store, []) == []


def test_a_readout_recovers_a_quantity_in_its_units(tmp_path: Path) -> None:
    store = recorded(tmp_path / "points", 20)
    model = exact()
    readout = fit_readout(model, store, "place", range(16), seed=0, steps=400)
    latents = torch.cat(encode_episodes(model, store, range(16, 20)))
    truth = torch.cat(channel_values(store, "place", range(16, 20))[0])
    error = (readout(latents) - truth).square().mean().sqrt()
    assert error < 0.15 * truth.std()
    assert (readout.fields, readout.units) == (("x", "y"), ("m", "m"))
    assert not any(p.requires_grad for p in readout.parameters())
    torch.manual_seed(9)
    again = fit_readout(model, store, "place", range(16), seed=0, steps=400)
    assert torch.equal(again(latents), readout(latents))
    kept = Readout.from_json(json.loads(json.dumps(readout.to_json())))
    kept.load_state_dict(readout.state_dict())
    assert torch.equal(kept(latents[:, None]), readout(latents)[:, None])


def test_missing_values_are_left_out(tmp_path: Path) -> None:
    episodes = []
    for episode in Points().episodes(6, seed=0):
        place = episode.observations["place"].copy()
        mask = np.random.default_rng(0).random(place.shape) < 0.5
        place[~mask] = 1e4
        sensor = episode.observations["sensor"]
        episodes.append(
            Episode(observations={"sensor": sensor, "place": place}, actions=episode.actions, valid={"place": mask})
        )
    record((SPEC, episodes), tmp_path / "gaps", episodes=6)
    store = EpisodeStore(tmp_path / "gaps")
    readout = fit_readout(exact(), store, "place", range(6), seed=0, steps=200)
    assert readout(torch.zeros(1, 1, 2)).abs().max() < 5


def test_what_cannot_be_read_out(tmp_path: Path) -> None:
    blind = [
        Episode(observations=e.observations, actions=e.actions, valid={"place": np.zeros(len(e), bool)})
        for e in Points().episodes(2, seed=0)
    ]
    record((SPEC, blind), tmp_path / "blind", episodes=2)
    with pytest.raises(DataError, match="place is missing throughout"):
        fit_readout(exact(), EpisodeStore(tmp_path / "blind"), "place", [0, 1], seed=0)
    with pytest.raises(SpecError, match="no channel 'speed'"):
        fit_readout(exact(), EpisodeStore(tmp_path / "blind"), "speed", [0], seed=0)
    readout = Readout(channel="place", fields=("x",), units=("m",), latent=3)
    with pytest.raises(SpecError, match=r"\(\.\.\., 1, 3\) expected, got \(5, 1, 2\)"):
        readout(torch.zeros(5, 1, 2))
    with pytest.raises(SpecError, match="not a readout"):
        Readout.from_json({"channel": "place"})
    with pytest.raises(SpecError, match="width"):
        Readout(channel="place", fields=("x",), units=("m",), latent=3, width=0)
