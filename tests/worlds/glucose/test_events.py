"""Events: before them nothing is other than on the same ordinary day, after them what they say is."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import SpecError
from foretell.worlds.glucose import CHILDREN, HELD_OUT, Options, logged
from foretell.worlds.glucose.events import BIAS, EVENTS, Event, Happens, disturbed
from foretell.worlds.glucose.ward import DAY

CARE = Options(logs="randomised", patients=HELD_OUT[:3])


@pytest.fixture(scope="module")
def ordinary():
    return list(logged(CARE, 3, seed=5))


@pytest.mark.parametrize("event", [e for e in EVENTS if e != "children"])
def test_until_its_onset_a_day_is_the_ordinary_one(event: Event, ordinary) -> None:
    for (found, onset), plain in zip(disturbed(event, CARE, 3, seed=5), ordinary, strict=True):
        assert DAY <= onset < DAY + DAY // 2
        assert found.group == plain.group
        for name, values in found.observations.items():
            assert np.array_equal(values[: onset + 1], plain.observations[name][: onset + 1]), name
        assert not np.array_equal(found.observations["glucose"], plain.observations["glucose"])


def test_a_biased_sensor_shows_more_and_a_dead_one_the_same(ordinary) -> None:
    (biased, onset), *_ = disturbed("bias", CARE, 1, seed=5)
    after = biased.observations["glucose"][onset + 1 : onset + 3, 0]
    plain = ordinary[0].observations["glucose"][onset + 1 : onset + 3, 0]
    # What is done about it takes longer to show.
    assert after - plain == pytest.approx(np.full(2, BIAS), abs=0.5)
    (dead, onset), *_ = disturbed("dead", CARE, 1, seed=5)
    assert len(np.unique(dead.observations["glucose"][onset + 1 :])) == 1
    assert len(np.unique(dead.observations["plasma"][onset:])) > 50


def test_doses_and_answers_grow(ordinary) -> None:
    for event in ("dose", "sensitivity"):
        (found, onset), *_ = disturbed(event, CARE, 1, seed=5)  # type: ignore[arg-type]
        told, plain = found.actions[onset:], ordinary[0].actions[onset:]
        assert np.array_equal(told[:, 2], plain[:, 2])
        first = np.flatnonzero(plain[:, 1])[0]
        assert told[first, 1] / plain[first, 1] > (1.5 if event == "dose" else 0.5)
        lowest = [e.observations["plasma"][onset:].min() for e in (found, ordinary[0])]
        assert lowest[0] < lowest[1] - 10


def test_children_are_others_from_the_start() -> None:
    found = list(disturbed("children", CARE, 2, seed=5))
    assert [onset for _, onset in found] == [0, 0]
    assert [e.group for e, _ in found] == list(CHILDREN[:2])


def test_unknown_events_and_short_days_are_refused() -> None:
    with pytest.raises(SpecError, match="an event of children"):
        Happens("fire", np.zeros(1, np.int64))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="second day"):
        next(iter(disturbed("bias", Options(days=1), 1, seed=0)))
