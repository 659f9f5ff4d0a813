"""What if it had been treated otherwise: two copies of the same patients, the same life, two insulin plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import Episode
from foretell.worlds.glucose.behaviour import MULTIPLIERS, TWO_HOURS, Options, logged_group
from foretell.worlds.glucose.ward import DAY, HIGHEST_BASAL, HIGHEST_BOLUS, Ward

Array = NDArray[np.float64]
Kind = Literal["basal", "bolus", "dose", "extra"]
AHEAD = 48
"""Steps of a plan: four hours."""
_LATER = 6
"""Steps by which a bolus may come late."""
_GROUP = 32
"""Patients that live together: those of a group begin their trials at one time, but for boluses."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One patient at one moment. history: all that was seen and done until then, its last observation the present.

    plan: (48, 3) what might be done from then on: the usual basal rate, and boluses and meals as they came. What was
    done is no plan: the pump was suspended because of what came. other: (48, 3) what is done instead.
    glucose, other_glucose: (49,) mg/dL in plasma that follow each, the first one now.
    """

    history: Episode
    plan: Array
    other: Array
    glucose: Array
    other_glucose: Array

    @property
    def effect(self) -> Array:
        """(49,) mg/dL that the other plan adds."""
        return self.other_glucose - self.glucose


def trials(options: Options, count: int, kind: Kind, *, seed: int) -> Iterator[Trial]:
    """`count` trials at some moment of the second day of logged care; trial i depends on (seed, i) alone.

    basal: basal multipliers drawn anew, as `randomised` logs have them. bolus: now, where a bolus is given, none is, or
    half an hour later, as people err. No logs have the others: dose, half of a bolus or half as much again for what was
    told; extra, a bolus of 0.02 to 0.06 U per kg that no meal is for.
    Raises SpecError for another kind.
    """
    if kind not in get_args(Kind):
        raise SpecError(f"glucose: a trial of {', '.join(get_args(Kind))} expected, got {kind!r}")
    options = replace(options, days=2)
    for first in range(0, count, _GROUP):
        numbers = range(first, min(first + _GROUP, count))
        who = [options.patients[i % len(options.patients)] for i in numbers]
        draws = [np.random.default_rng([seed, 0x7121, i]) for i in numbers]
        usual = DAY + int(np.random.default_rng([seed, 0x7122, first]).integers(DAY - AHEAD))

        def lived(before: Callable[[Ward], None], numbers: range = numbers, who: list[str] = who) -> list[Episode]:
            rngs = [np.random.default_rng([seed, 0x61C, i]) for i in numbers]
            return list(logged_group(options, who, rngs, before))

        # Wards are kept at the moments in question; when boluses are given shows only afterwards.
        at = np.full(len(numbers), usual)
        now: dict[int, Ward] = {}

        def keep(ward: Ward, now: dict[int, Ward] = now, at: NDArray[np.int64] = at) -> None:
            if ward.time in at:
                now[ward.time] = ward.copied()

        if kind in ("bolus", "dose"):
            for i, episode in enumerate(lived(lambda ward: None)):
                given = DAY + np.flatnonzero(episode.actions[DAY : 2 * DAY - AHEAD, 1])
                at[i] = draws[i].choice(given) if given.size else usual
        episodes = lived(keep)
        found = [f for time in now for f in _at(now[time], episodes, at == time, kind, draws)]
        for _, trial in sorted(found, key=lambda f: f[0]):
            yield trial


def _at(
    ward: Ward, episodes: Sequence[Episode], chosen: NDArray[np.bool_], kind: Kind, rngs: Sequence[np.random.Generator]
) -> Iterator[tuple[int, Trial]]:
    """The trials that begin at the time of a ward, which then goes on, with the number of each in the group."""
    at = ward.time
    plans = np.stack([e.actions[at : at + AHEAD] for e in episodes]).astype(np.float64)
    plans[..., 0] = ward.patients.basal[:, None]
    others = plans.copy()
    these = [int(i) for i in np.flatnonzero(chosen)]
    for i in these:
        others[i] = _otherwise(kind, plans[i], ward, i, rngs[i])
    one, other = (followed(ward.copied(), each) for each in (plans, others))
    for i in these:
        yield (
            i,
            Trial(
                history=episodes[i].until(at), plan=plans[i], other=others[i], glucose=one[i], other_glucose=other[i]
            ),
        )


def followed(ward: Ward, plans: Array) -> Array:
    """(n, K + 1) mg/dL in plasma that plans (n, K, 2 or more) lead to, the first one now; the ward lives on."""
    found = [ward.glucose]
    for actions in plans.swapaxes(0, 1):
        ward.step(actions)
        found.append(ward.glucose)
    return np.stack(found, axis=1)


def _otherwise(kind: Kind, plan: Array, ward: Ward, i: int, rng: np.random.Generator) -> Array:
    """Another plan (48, 3) for patient i of a ward as it is now."""
    other = plan.copy()
    if kind == "basal":
        steps = np.arange(ward.time, ward.time + AHEAD) // TWO_HOURS
        factors = rng.choice(MULTIPLIERS, steps[-1] + 1)
        other[:, 0] = np.minimum(ward.patients.basal[i] * factors[steps], HIGHEST_BASAL)
    elif kind == "bolus":
        given, other[0, 1] = other[0, 1], 0.0
        other[_LATER, 1] = min(other[_LATER, 1] + rng.choice([0.0, 1.0]) * given, HIGHEST_BOLUS)
    elif kind == "dose":
        other[0, 1] = min(rng.choice([0.5, 1.5]) * other[0, 1], HIGHEST_BOLUS)
    else:
        other[0, 1] = min(other[0, 1] + rng.uniform(0.02, 0.06) * ward.patients["BW"][i], HIGHEST_BOLUS)
    return other
