"""Overlap: whether logs varied an action for no reason that is seen, on logs whose reasons are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from foretell.errors import DataError, SpecError
from foretell.spec import ActionSpec, Channel, Episode, Spec
from foretell.trust.overlap import LEAST, Overlap, features, fit_overlap, usual_of

SPEC = Spec(
    observations=(Channel(name="level", kind="vector", shape=(1,), fields=("level",), units=("m",)),),
    action=ActionSpec(
        names=("pump", "valve", "rain"), units=("l", "", "mm"), low=(0, 0, 0), high=(9, 9, 99), exogenous=("rain",)
    ),
)


def episodes(count: int = 6, *, chance: float = 0.0, missed: float = 0.0, steps: int = 400) -> Iterator[Episode]:
    """The pump gives a group's usual rate, nothing at a low level, and with some chance half of it; the valve opens as
    much as it rains, and is now and then forgotten.
    """
    for i in range(count):
        rng = np.random.default_rng([7, i])
        level = 5 + 2 * np.sin(np.arange(steps) / 15 + rng.uniform(0, 6)) + rng.normal(size=steps) / 4
        usual = 1.0 + i % 2
        pump = np.where(level < 4, 0.0, usual * np.where(rng.random(steps) < chance, 0.5, 1.0))
        rain = np.where(rng.random(steps) < 0.05, rng.uniform(10, 30, steps), 0.0)
        valve = rain / 10 * (rng.random(steps) >= missed)
        yield Episode(
            observations={"level": level[:, None].astype(np.float32)},
            actions=np.stack([pump, valve, rain], axis=1)[:-1],
            group=f"pond{i % 2}",
        )


def made(**kwargs: float) -> Overlap:
    return fit_overlap(SPEC, list(episodes(**kwargs)), seed=0)  # type: ignore[arg-type]


def test_what_always_follows_from_what_is_seen_was_never_varied() -> None:
    pump, valve = made().report()
    assert (pump.action, pump.unit, valve.action) == ("pump", "l", "valve")
    assert pump.usual == pytest.approx(1.5, abs=0.01)
    assert pump.often < LEAST
    assert pump.unexplained < 0.05
    assert not pump.varied
    assert "pump: never varied but for reasons that are seen" in str(pump)
    assert valve.where["level below 4.29 m"] < LEAST if "level below 4.29 m" in valve.where else valve.often < LEAST


def test_what_was_varied_at_random_is_found_as_often_as_it_was() -> None:
    pump, _ = made(chance=0.3).report()
    # Either value is half of the usual one away from the other: judged against what lies between, few differ by half.
    assert pump.varied
    assert pump.unexplained > 0.1
    history = next(episodes(1))
    high = int(np.argmax(history.observations["level"][200:300, 0])) + 200
    shares = made(chance=0.3).share(history.until(high), np.array([0.5, 0.0, 0.0]))
    # Half of those that differ do so to this side, the other half to the other.
    less = made(chance=0.3).share(history.until(high), np.array([-0.5, 0.0, 0.0]))
    assert shares[0] + less[0] == pytest.approx(0.3, abs=0.15)
    assert min(shares[0], less[0]) > LEAST
    assert shares[1:].tolist() == [1.0, 1.0]
    assert made().share(history.until(high), np.array([0.5, 0.0, 0.0]))[0] < LEAST


def test_what_is_forgotten_now_and_then_was_varied_there_and_nowhere_else() -> None:
    found = made(missed=0.3)
    _, valve = found.report()
    assert valve.often < 0.05
    history = next(episodes(1))
    raining = int(np.flatnonzero(history.actions[300:, 2])[0]) + 300
    dry = int(np.flatnonzero(history.actions[300:, 2] == 0)[0]) + 300
    asked = np.array([0.0, -2.0, 0.0])
    for step, often in ((raining, True), (dry, False)):
        # With what is told of now.
        known = Episode(observations=history.until(step).observations, actions=history.actions[: step + 1])
        assert (found.share(known, asked)[1] > 0.15) == often
        assert often or found.share(known, asked)[1] < LEAST
        # What was left out now and then was never done twice.
        assert found.share(known, -2 * asked)[1] < 0.05


def test_features_look_at_nothing_that_comes_later() -> None:
    episode = next(episodes(1))
    whole = features(SPEC, episode)
    for step in (0, 1, 50, 399):
        cut = Episode(
            observations={"level": episode.observations["level"][: step + 1]}, actions=episode.actions[: step + 1]
        )
        assert features(SPEC, cut)[-1] == pytest.approx(whole[step])


def test_what_is_missing_is_as_last_known() -> None:
    episode = next(episodes(1))
    mask = np.ones(400, np.bool_)
    mask[100:110] = False
    values = episode.observations["level"].copy()
    values[100:110] = 1e6
    found = features(SPEC, Episode(observations={"level": values}, actions=episode.actions, valid={"level": mask}))
    assert found[105, 0] == episode.observations["level"][99, 0]
    assert found.max() < 1e3


def test_usual_is_the_mean_of_what_is_given() -> None:
    assert usual_of(np.array([[0.0, 0.0], [2.0, 0.0], [-4.0, 0.0]])).tolist() == [3.0, 0.0]


def test_it_travels_and_refuses_what_it_cannot_judge() -> None:
    found = made()
    other = Overlap.from_json(found.to_json())
    other.load_state_dict(found.state_dict())
    history = next(episodes(1))
    change = np.array([1.0, 1.0, 0.0])
    assert np.array_equal(other.share(history, change), found.share(history, change))
    assert all(torch.equal(a, b) for a, b in zip(other.buffers(), found.buffers(), strict=True))
    with pytest.raises(SpecError, match="not an overlap"):
        Overlap.from_json({})
    with pytest.raises(DataError, match="at least 100 steps of each group"):
        fit_overlap(SPEC, list(episodes(2, steps=50)), seed=0)  # type: ignore[arg-type]
    still = Spec(observations=SPEC.observations)
    with pytest.raises(SpecError, match="no action that anybody chooses"):
        fit_overlap(still, [], seed=0)
    blind = Spec(observations=(Channel(name="eye", kind="image", shape=(4, 4, 3)),), action=SPEC.action)
    with pytest.raises(SpecError, match="vectors among the observations"):
        features(blind, history)
