"""Departures: each of its kinds by itself, and their guarantee on ordinary streams."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from foretell.errors import DataError, SpecError
from foretell.trust.conformal import p_values
from foretell.trust.departures import KINDS, Departures, departures_of, fit_departures

HORIZONS, STEPS = (2, 4), 120
Streams = tuple[list[Tensor], list[Tensor], list[Tensor]]


def streams(count: int, seed: int) -> Streams:
    """Values that wander, errors of forecasts that do, too, and doses of much the same size now and then."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(3, count, STEPS, 2))
    values = 100 + noise[0, ..., :1].cumsum(1)
    errors = np.stack([noise[1], 2 * noise[2]], axis=2)[..., :1]
    doses = np.where(rng.random((count, STEPS, 1)) < 0.2, rng.uniform(4, 6, (count, STEPS, 1)), 0.0)
    each = (torch.from_numpy(x).float() for x in (values, errors, doses))
    values_, errors_, doses_ = (list(x) for x in each)
    return values_, errors_, doses_


def fitted(count: int = 200) -> Departures:
    return fit_departures("level", HORIZONS, *streams(count, 0), memory=20, every=2)


def test_ordinary_streams_alarm_no_more_often_than_asked_for() -> None:
    made = fitted()
    alarms = [bool(d.alarms(0.2).any()) for d in departures_of(made, *streams(400, 1))]
    # Bonferroni over six kinds that hardly depend on each other: a little below the level.
    assert 0.08 < np.mean(alarms) < 0.25


def test_p_values_are_ranks_among_whole_episodes() -> None:
    made = fitted(60)
    (found,) = departures_of(made, *streams(1, 2))
    highest = made.get_buffer("highest")
    for k in range(len(KINDS)):
        middle = found.signals[:, k] <= made.get_buffer("tails")[k, 0]
        ranked = p_values(highest[k], found.signals[:, k])
        torch.testing.assert_close(found.p[middle, k], ranked[middle])
        assert (found.p[:, k] <= ranked + 1e-12).all()
    torch.testing.assert_close(found.score, -found.p.log().sum(1))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_named(kind: str) -> None:
    made, (values, errors, doses) = fitted(), streams(1, 3)
    v, e, d, at = values[0].clone(), errors[0].clone(), doses[0].clone(), 60
    if kind == "error":
        e[at, 0] = 7.0
    elif kind == "drift":
        e[at:, 1] += 2.5
    elif kind == "level":
        # Nothing else moves: it wanders away step by step.
        v[at:, 0] += torch.arange(STEPS - at) * 1.5
    elif kind == "stuck":
        v[at:] = v[at]
    elif kind == "jump":
        v[at:] += 12.0
    else:
        d[at] = 40.0
    (found,) = departures_of(made, [v], [e], [d])
    first = found.alarms(0.05).float().argmax(0)
    alarmed = [k for k, alarm in zip(KINDS, found.alarms(0.05).any(0).tolist(), strict=True) if alarm]
    assert alarmed == [kind]
    assert at <= int(first[KINDS.index(kind)]) <= at + 40  # type: ignore[arg-type]
    step = int(found.score.argmax())
    (reason,) = found.reasons(step, "level")
    assert reason.startswith("level: ")


def test_a_stream_is_judged_step_by_step_as_a_whole_episode_is() -> None:
    made, (values, errors, doses) = fitted(40), streams(3, 4)
    values[1][30:40] = math.nan
    whole = departures_of(made, values, errors, doses)
    state = made.start(3)
    v, e, d = (torch.stack(x) for x in (values, errors, doses))
    for t in range(STEPS):
        known = torch.full((3, len(HORIZONS), 1), math.nan)
        for k, h in enumerate(HORIZONS):
            if t >= h:
                known[:, k] = e[:, t - h, k]
        found, state = made.step(v[:, t], known if t % 2 == 0 else None, d[:, t - 1] if t else None, state)
        torch.testing.assert_close(found.signals, torch.stack([w.signals[t] for w in whole]))


def test_what_is_missing_neither_jumps_nor_stands_still() -> None:
    made, (values, errors, doses) = fitted(), streams(1, 5)
    v = values[0].clone()
    v[50:60] = math.nan
    v[60:] += 40.0
    (found,) = departures_of(made, [v], errors, doses)
    assert not found.alarms(0.05)[:, [KINDS.index("jump"), KINDS.index("stuck")]].any()


def test_at_the_ends_of_its_range_a_sensor_may_show_the_same_for_long() -> None:
    values, errors, doses = streams(100, 0)
    low = min(float(v.min()) for v in values)
    made = fit_departures("level", HORIZONS, values, errors, doses, memory=20, every=2)
    flat = [torch.full((STEPS, 1), x) for x in (low, low + 1.0)]
    found = departures_of(made, flat, [errors[0]] * 2, [doses[0]] * 2)
    stuck = [bool(d.alarms(0.05)[:, KINDS.index("stuck")].any()) for d in found]
    assert stuck == [False, True]


def test_travels_as_json_and_weights() -> None:
    made = fitted(40)
    again = Departures.from_json(made.to_json())
    again.load_state_dict(made.state_dict())
    one, two = (departures_of(m, *streams(1, 6))[0] for m in (made, again))
    assert torch.equal(one.p, two.p)
    with pytest.raises(SpecError, match="not departures"):
        Departures.from_json({"channel": "level"})


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(DataError, match="there are none"):
        fit_departures("level", HORIZONS, [], [], [], memory=20, every=2)
    values, errors, doses = streams(3, 0)
    nothing = [torch.full_like(e, math.nan) for e in errors]
    with pytest.raises(DataError, match="more than 4 steps"):
        fit_departures("level", HORIZONS, values, nothing, doses, memory=20, every=2)
    made = fitted(10)
    with pytest.raises(SpecError, match="values"):
        made.step(torch.zeros(1, 3), None, None, made.start(1))
