"""The monitor: what the whole episode would say, step by step; and what a user gets wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foretell.errors import DataError, SpecError
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import Episode, Spec
from foretell.trust import monitor as trust_monitor
from foretell.trust.attribution import attribute_surprise
from foretell.trust.calibration import Calibration, calibrate, fit, see
from foretell.trust.monitor import Monitor, Verdict
from tests.trust.samples import SPEC, episodes, jumped, model, seen, without

LEVEL = 0.1


@pytest.fixture(scope="module")
def made() -> Calibration:
    world = model()
    return calibrate(
        fit(world, seen(world, episodes(60, seed=1)), seed=0, steps=300),
        world,
        seen(world, episodes(210, seed=2)),
        seed=0,
    )


def watch(monitor: Monitor, episode: Episode, acting: bool = True) -> list[Verdict]:
    monitor.reset()
    found = []
    for t in range(len(episode.actions) + 1):
        seen = {n: v[t] for n, v in episode.observations.items()}
        valid = {n: v[t] for n, v in episode.valid.items()}
        found.append(monitor.step(seen, episode.actions[t - 1] if t and acting else None, valid))
    return found


@pytest.mark.parametrize(("history", "look"), [(1, 1), (2, 1), (1, 9)])
def test_says_step_by_step_what_the_whole_episode_says(history: int, look: int) -> None:
    world = model(history, look)
    made = calibrate(
        fit(world, seen(world, episodes(20, seed=1)), seed=0, steps=300),
        world,
        seen(world, episodes(60, seed=2)),
        seed=0,
    )
    episode = without(next(episodes(1, seed=7)), "place", 9)
    scores = made.scores(world, see(world, episode))
    wanted = made.surprise_p(scores.surprise), made.novelty_p(scores.novelty)
    found = watch(Monitor(world, made, level=0.2), episode)
    for t, verdict in enumerate(found):
        for given, whole in (
            (verdict.surprise, wanted[0][t]),
            *zip(verdict.novelty.values(), wanted[1][t], strict=True),
        ):
            assert (given is None) == bool(whole.isnan()), t
            assert given is None or given == pytest.approx(float(whole), abs=0.01)


def test_a_jump_is_a_surprise_that_passes_and_a_new_look_is_novelty_from_the_start(made: Calibration) -> None:
    monitor = Monitor(model(), made, level=LEVEL)
    ordinary = next(episodes(1, seed=8, steps=60))
    assert all(v.trusted for v in watch(monitor, ordinary))
    found = watch(monitor, jumped(ordinary, 10, 4.0))
    assert next(v.step for v in found if v.alarm and v.kind == "surprise") in (10, 11, 12)
    assert found[-1].trusted
    bright = Episode(
        observations={**ordinary.observations, "camera": ordinary.observations["camera"] // 2 + 120},
        actions=ordinary.actions,
    )
    first = watch(monitor, bright)[0]
    assert (first.alarm, first.kind, first.trusted) == (True, "novelty", False)
    assert any(r.startswith("camera: unlike training (p = ") for r in first.reasons)


def test_what_a_surprise_depends_on_is_found_where_it_begins(
    made: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def attribute(*arguments: Any) -> Any:
        asked.append(arguments)
        return attribute_surprise(*arguments)

    monkeypatch.setattr(trust_monitor, "attribute_surprise", attribute)
    found = watch(Monitor(model(), made, level=LEVEL), jumped(next(episodes(1, seed=8, steps=60)), 10, 4.0))
    surprised = [v.kind == "surprise" for v in found]
    begins = sum(now and not before for before, now in itertools.pairwise([False, *surprised]))
    assert sum(surprised) > begins == len(asked) >= 1
    assert len({r.split(":")[0] for v in found for r in v.reasons}) == 1


def test_where_nobody_acts_it_watches_too() -> None:
    still = Spec(observations=SPEC.observations)
    torch.manual_seed(0)
    world = WorldModel(still, ModelConfig(latent=4, block=2, stem=4, features=8, width=8, depth=1)).eval()

    def walks(count: int, seed: int) -> Iterator[Episode]:
        for episode in episodes(count, seed=seed):
            yield replace(episode, actions=episode.actions[:, :0])

    made = calibrate(fit(world, seen(world, walks(20, 1)), seed=0, steps=100), world, seen(world, walks(60, 2)), seed=0)
    monitor = Monitor(world, made, level=0.2)
    found = watch(monitor, jumped(next(walks(1, 3)), 10, 6.0), acting=False)
    assert min(v.surprise or 1.0 for v in found[10:13]) < 0.05
    assert all(v.surprise is not None for v in found[2:])


def test_a_missing_channel_is_a_verdict_of_its_own(made: Calibration) -> None:
    monitor = Monitor(model(), made, level=LEVEL)
    found = watch(monitor, without(next(episodes(1, seed=9)), "place", 5))
    assert (found[5].kind, found[5].trusted, found[5].alarm) == ("missing", False, False)
    assert found[5].reasons == ("place: channel missing",)
    assert found[5].novelty["place"] is None
    assert found[4].trusted
    monitor.reset()
    seen = {n: v[0] for n, v in next(episodes(1, seed=9)).observations.items()}
    lost = monitor.step({**seen, "place": np.array([np.nan, np.inf])})
    assert lost.kind == "missing"


def test_what_does_not_fit_is_refused_in_words(made: Calibration) -> None:
    monitor = Monitor(model(), made, level=LEVEL)
    episode = next(episodes(1, seed=9))
    seen = {n: v[0] for n, v in episode.observations.items()}
    with pytest.raises(DataError, match="no action before the first observation"):
        monitor.step(seen, episode.actions[0])
    monitor.step(seen)
    with pytest.raises(DataError, match="step 1: the action since the last one expected"):
        monitor.step(seen)
    with pytest.raises(DataError, match="observation 1 expected, 3 skips 2; `reset` begins anew"):
        monitor.step(seen, episode.actions[0], number=3)
    with pytest.raises(DataError, match="observation 1 expected, 0 was seen before"):
        monitor.step(seen, episode.actions[0], number=0)
    with pytest.raises(SpecError, match="a finite action of shape"):
        monitor.step(seen, np.array([np.nan, 0.0]))
    with pytest.raises(SpecError, match="channel place is missing"):
        monitor.step({"camera": seen["camera"]}, episode.actions[0])
    with pytest.raises(SpecError, match=r"channel camera of shape \(16, 16, 3\) expected, got \(8, 8, 3\)"):
        monitor.step({**seen, "camera": seen["camera"][:8, :8]}, episode.actions[0])
    with pytest.raises(SpecError, match="must be uint8"):
        monitor.step({**seen, "camera": seen["camera"].astype(float)}, episode.actions[0])
    with pytest.raises(DataError, match="needs at least"):
        Monitor(model(), made, level=1e-4)


def test_a_refused_step_changes_nothing(made: Calibration) -> None:
    episode = next(episodes(1, seed=10))
    plain, tried = Monitor(model(), made, level=LEVEL), Monitor(model(), made, level=LEVEL)
    for t in range(8):
        seen = {n: v[t] for n, v in episode.observations.items()}
        action = episode.actions[t - 1] if t else None
        for wrong in (np.array([np.nan, 0.0]), np.zeros(3)):
            with pytest.raises((SpecError, DataError)):
                tried.step(seen, wrong)
        assert tried.step(seen, action, number=t) == plain.step(seen, action)
