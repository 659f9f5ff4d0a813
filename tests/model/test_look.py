"""A latent takes the last raw steps of vectors: the same ones whichever way the steps come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foretell.episodes.statistics import statistics
from foretell.episodes.store import EpisodeStore
from foretell.episodes.windows import Windows
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import SpecError
from foretell.model.latents import encode_episodes
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.planning.controller import Controller, ControllerConfig
from foretell.planning.icem import ICEM
from foretell.spec import Episode
from foretell.trust.attribution import attribute_novelty, attribute_surprise
from foretell.trust.calibration import fit, see
from tests.trust.samples import BLOCK, SPEC, episodes, jumped, model, without

LOOK = 5


def gaps(seed: int) -> Episode:
    return without(next(episodes(1, seed=seed)), "place", 7)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    with EpisodeWriter(tmp_path / "store", SPEC) as writer:
        for seed in range(3):
            writer.append(gaps(seed))
    return EpisodeStore(tmp_path / "store")


def test_every_way_of_seeing_an_episode_gives_the_same_latents(store: EpisodeStore) -> None:
    world = model(look=LOOK)
    frozen = encode_episodes(world, store, [2, 1])
    windows = Windows(store, length=3, block=BLOCK, look=LOOK)
    index = np.arange(len(windows))
    batch = windows.batch(index)
    with torch.no_grad():
        latents = world.encode(batch.observations, batch.valid)
    where = list(zip(*windows.locate(index), strict=True))
    controller = Controller(world, ICEM(samples=8, elites=2), ControllerConfig(horizon=2, replan_every=1))
    for whole, number in zip(frozen, (2, 1), strict=True):
        episode = store.read(number)
        assert torch.allclose(see(world, episode).latents, whole, atol=1e-5)
        assert torch.allclose(see(world, episode, last=True).latents, whole[-1:], atol=1e-5)
        for i, (which, first) in enumerate(where):
            if which == number:
                assert torch.allclose(latents[i], whole[first : first + 2 * BLOCK + 1 : BLOCK], atol=1e-5)
        goal = {n: torch.tensor(x[:1]) for n, x in episode.observations.items()}
        state = controller.start(goal, generator=torch.Generator().manual_seed(0))
        for t, latent in enumerate(whole):
            shown = {n: torch.tensor(x[t : t + 1]) for n, x in episode.observations.items()}
            valid = {n: torch.tensor(x[t : t + 1]) for n, x in episode.valid.items()}
            _, state = controller.step(shown, state, valid)
            assert torch.allclose(state.latents[-1][0], latent, atol=1e-5)


def test_a_latent_takes_so_many_steps_and_none_after_them() -> None:
    world, episode = model(look=LOOK), next(episodes(1, seed=4))
    place = episode.observations["place"].copy()
    place[10] += 1.0
    changed = replace(episode, observations={**episode.observations, "place": place})
    moved = (see(world, changed).latents - see(world, episode).latents).abs().flatten(1).amax(1) > 0
    assert moved.nonzero().flatten().tolist() == list(range(10, 10 + LOOK))


def test_what_comes_before_an_episode_is_missing_and_no_other_episodes_steps(store: EpisodeStore) -> None:
    batch = Windows(store, length=2, block=BLOCK, look=LOOK, episodes=[1]).batch(np.array([0, 1]))
    assert batch.observations["place"].shape == (2, 2, 2, LOOK)
    assert batch.valid["place"][:, :, 0].tolist() == [
        [[False] * 4 + [True], [False] * 2 + [True] * 3],
        [[False] * 3 + [True] * 2, [False] + [True] * 4],
    ]
    assert not batch.observations["place"][~batch.valid["place"]].any()
    assert "camera" in batch.observations
    assert batch.observations["camera"].shape == (2, 2, 16, 16, 3)


def test_attribution_adds_up_over_the_steps_looked_at() -> None:
    world, episode = model(look=LOOK), next(episodes(1, seed=5))
    made = fit(world, (see(world, e) for e in episodes(20, seed=1)), seed=0, steps=50)
    still = replace(episode, observations={n: np.repeat(x[:1], len(x), 0) for n, x in episode.observations.items()})
    found = attribute_surprise(world, made, jumped(still, 10, 3.0), 10)
    assert found.channels["place"] == pytest.approx(1)
    for each in (found, attribute_novelty(world, made, episode, 10)):
        assert sum(each.channels.values()) == pytest.approx(1, abs=1e-5)
        assert each.fields["place"].shape == (2,)


def test_grounded_values_are_the_last_ones_known_in_their_units(store: EpisodeStore) -> None:
    # Step 7 is missing; a latent that takes one step knows nothing of it but the mean.
    known = np.concatenate([np.arange(7), [6], np.arange(8, 21)])
    for look in (1, LOOK):
        sizes = ModelConfig(latent=5, look=look, grounded=("place",), stem=4, features=8, width=8, depth=1)
        world = WorldModel(SPEC, sizes, statistics(store, range(3)))
        latents = see(world, gaps(0)).latents
        expected = gaps(0).observations["place"][known]
        if look == 1:
            expected[7] = statistics(store, range(3)).mean["place"]
        assert torch.allclose(world.read(latents, "place"), torch.from_numpy(expected), atol=1e-5)
    with pytest.raises(SpecError, match="channel camera is not grounded"):
        world.read(latents, "camera")


@pytest.mark.parametrize(
    ("grounded", "words"),
    [(("camera",), "grounded names a vector .*, got 'camera'"), (("place",), "a latent of more than 2 expected")],
)
def test_what_cannot_be_grounded_is_refused(grounded: tuple[str, ...], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        WorldModel(SPEC, ModelConfig(latent=2, grounded=grounded))


def test_a_single_step_where_several_are_looked_at_is_refused() -> None:
    seen = {n: torch.from_numpy(x[None]) for n, x in next(episodes(1, seed=6)).observations.items()}
    with pytest.raises(SpecError, match=r"channel place: \(batch, steps, 2, 5\) expected, got \(1, 21, 2\)"):
        model(look=LOOK).encode(seen)
    with pytest.raises(SpecError, match="model: look"):
        ModelConfig(look=0)
