"""Calibration: valid p-values and few false alarms on fresh episodes, alarms where something happens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foretell.errors import DataError, SpecError
from foretell.trust import calibration
from foretell.trust.calibration import Calibration, calibrate, evidence_paths, fit, see
from foretell.trust.residuals import residuals
from tests.trust.samples import BLOCK, episodes, jumped, model, seen, without

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


def paths(made: Calibration, some: list) -> tuple[torch.Tensor, torch.Tensor]:
    world = model()
    scores = [made.scores(world, see(world, e)) for e in some]
    surprise = torch.stack([made.surprise_p(s.surprise, tail=True) for s in scores])
    novelty = torch.stack([made.novelty_p(s.novelty, tail=True) for s in scores])
    return evidence_paths(surprise, novelty, made.length, made.memory(world))


def test_p_values_of_fresh_episodes_are_uniform(made: Calibration) -> None:
    world = model()
    scores = [made.scores(world, see(world, e)) for e in episodes(100, seed=3)]
    surprise = torch.cat([made.surprise_p(s.surprise) for s in scores])
    novelty = torch.cat([made.novelty_p(s.novelty) for s in scores])
    assert [bool(x) for x in surprise.isnan().view(100, -1).all(0)] == [t == 0 for t in range(21)]
    for p in (surprise[~surprise.isnan()], novelty[:, 0], novelty[:, 1]):
        ordered = p.sort().values
        gap = (ordered - torch.arange(1, len(p) + 1) / len(p)).abs().max()
        assert float(gap) < 0.1


def test_at_most_the_level_of_fresh_episodes_alarms_also_long_ones(made: Calibration) -> None:
    early, late = made.thresholds(LEVEL, 0), made.thresholds(LEVEL, made.length)
    for steps in (20, 60):
        surprise, novelty = paths(made, list(episodes(200, seed=4, steps=steps)))
        limit = torch.arange(steps + 1) < made.length
        alarms = (surprise >= torch.where(limit, early[0], late[0])) | (
            novelty >= torch.where(limit, early[1], late[1])
        )
        # The upper end of a 99.9% interval of a share of 0.1 in 200.
        assert float(alarms.any(1).double().mean()) <= LEVEL + 3.1 * math.sqrt(LEVEL * (1 - LEVEL) / 200)


def test_alarms_where_something_happens(made: Calibration) -> None:
    ordinary = list(episodes(30, seed=5))
    surprise, _ = paths(made, [jumped(e, 10, 8.0) for e in ordinary])
    first = (surprise >= made.thresholds(LEVEL, 0)[0]).double()
    assert float(first[:, :10].amax(1).mean()) <= 0.2
    assert float(first[:, 10 : 10 + BLOCK + 1].amax(1).mean()) >= 0.7


def test_a_missing_channel_has_no_novelty_and_touches_no_surprise_beyond_its_reach(made: Calibration) -> None:
    world = model()
    episode = next(episodes(1, seed=6))
    whole = made.scores(world, see(world, episode))
    gap = made.scores(world, see(world, without(episode, "place", 8)))
    assert bool(gap.novelty.isnan()[8].tolist() == [False, True])
    assert int(gap.novelty.isnan().sum()) == 1
    # Of one raw step, one block and two, and for as long as each is remembered.
    touched = {t + since for t in (8, 9, 10, 8 + BLOCK, 8 + 2 * BLOCK) for since in range(BLOCK)}
    for t in range(1, 21):
        # A block later nothing but what looks at step 8 reaches.
        assert bool(gap.surprise[t].isnan()) == (t in (8, 8 + BLOCK))
        assert t in touched or gap.surprise[t] == whole.surprise[t]


def test_a_surprise_is_the_mean_of_the_highest_each_view_had_within_a_block(made: Calibration) -> None:
    world = model()
    now = see(world, next(episodes(1, seed=6)))
    found = residuals(world, now.latents, now.actions, made.law.blocks)
    ratios = made.law.ratios(found.values, found.given).tolist()
    for t, score in enumerate(made.scores(world, now).surprise.tolist()):
        lately = [[r[v] for r in ratios[max(0, t - BLOCK + 1) : t + 1]] for v in range(made.law.views)]
        known = [max(each) for each in lately if max(each) > -math.inf]
        assert score == pytest.approx(np.mean(known), rel=1e-4) if known else math.isnan(score)


def test_novelty_has_a_smaller_share_of_false_alarms_where_episodes_are_many(made: Calibration) -> None:
    level = 1 / (made.episodes + 1)
    assert made.shares(level / calibration.NEW[1])[1] == pytest.approx(calibration.NEW[1])
    assert made.shares(level / 0.2)[1] == pytest.approx(0.2)
    assert made.shares(level / calibration.NEW[0] * 1.5)[1] == calibration.NEW[0]
    for asked in (level * 4, level * 6, 0.9):
        assert sum(made.shares(asked)) + calibration.LATE == pytest.approx(1)


def test_episodes_shorter_than_the_longest_prediction_have_the_scores_that_reach(made: Calibration) -> None:
    world = model()
    for steps in range(1, 5):
        scores = made.scores(world, see(world, next(episodes(1, seed=7, steps=steps))))
        assert [bool(x) for x in scores.surprise.isnan()] == [t == 0 for t in range(steps + 1)]
        assert bool(scores.novelty.isfinite().all())


def test_too_few_episodes_are_refused_with_how_many_are_needed(made: Calibration) -> None:
    world = model()
    fitted = fit(world, seen(world, episodes(5, seed=1)), seed=0, steps=300)
    with pytest.raises(DataError, match="at least 3 episodes expected, there are 2"):
        calibrate(fitted, world, seen(world, episodes(2, seed=2)), seed=0)
    with pytest.raises(
        DataError, match=r"alarms at a level of 0.1 need at least (\d+) calibration episodes"
    ) as refused:
        calibrate(fitted, world, seen(world, episodes(10, seed=2)), seed=0, level=0.1)
    enough = int(str(refused.value).split("at least ")[1].split()[0])
    found = calibrate(fitted, world, seen(world, episodes(enough, seed=2)), seed=0, level=0.1)
    assert all(map(math.isfinite, found.thresholds(0.1, 0)))
    with pytest.raises(DataError, match="at least"):
        calibrate(fitted, world, seen(world, episodes(enough - 1, seed=2)), seed=0, level=0.1)
    with pytest.raises(DataError, match="needs at least 333 calibration episodes"):
        made.thresholds(0.01, 0)


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0, math.nan])
def test_levels_outside_zero_and_one_are_refused(made: Calibration, level: float) -> None:
    with pytest.raises(SpecError, match="a level between 0 and 1 expected"):
        made.thresholds(level, 0)


def test_it_comes_back_from_its_description(made: Calibration) -> None:
    again = Calibration.from_json(made.to_json())
    again.load_state_dict(made.state_dict())
    assert again.thresholds(LEVEL, 0) == made.thresholds(LEVEL, 0)
    scores = torch.linspace(0, 3, 20)
    assert torch.equal(again.surprise_p(scores), made.surprise_p(scores))
    with pytest.raises(SpecError, match="not a calibration"):
        Calibration.from_json({"law": made.law.to_json()})
