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
from foretell.worlds.glucose.simulator import Simulator
from foretell.worlds.glucose.ward import DAY, HIGHEST_BASAL, HIGHEST_BOLUS, Ward, live

Array = NDArray[np.float64]
Kind = Literal["basal", "bolus", "dose", "extra"]
AHEAD = 48
"""Steps of a plan: four hours."""
_LATER = 6
"""Steps by which a bolus may come late."""
_GROUP = 32
"""Trials that begin at one time, but for those of boluses."""
_TOGETHER = 256
"""Trials whose patients live at once."""


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
    for first in range(0, count, _TOGETHER):
        numbers = range(first, min(first + _TOGETHER, count))
        yield from _together(options, numbers, kind, seed)


def _together(options: Options, numbers: Sequence[int], kind: Kind, seed: int) -> list[Trial]:
    """Trials whose patients live together."""
    who = [options.patients[i % len(options.patients)] for i in numbers]
    draws = [np.random.default_rng([seed, 0x7121, i]) for i in numbers]
    groups = [np.random.default_rng([seed, 0x7122, i // _GROUP * _GROUP]) for i in numbers]
    at = DAY + np.array([int(rng.integers(DAY - AHEAD)) for rng in groups])
    now: dict[int, Ward] = {}

    def lived(before: Callable[[Ward], None]) -> list[Episode]:
        rngs = [np.random.default_rng([seed, 0x61C, i]) for i in numbers]
        return list(logged_group(options, who, rngs, before))

    def keep(ward: Ward) -> None:
        if ward.time in at:
            now[ward.time] = ward.copied()

    if kind in ("bolus", "dose"):
        # When boluses are given shows only afterwards.
        for i, episode in enumerate(lived(lambda ward: None)):
            given = DAY + np.flatnonzero(episode.actions[DAY : 2 * DAY - AHEAD, 1])
            at[i] = draws[i].choice(given) if given.size else at[i]
    episodes = lived(keep)
    wards = [now[t] for t in at]
    plans = np.stack([e.actions[t : t + AHEAD] for e, t in zip(episodes, at, strict=True)]).astype(np.float64)
    plans[..., 0] = wards[0].patients.basal[:, None]
    others = np.stack([_otherwise(kind, plans[i], ward, i, draws[i]) for i, ward in enumerate(wards)])
    one, other = (followed([(ward, i) for i, ward in enumerate(wards)], each) for each in (plans, others))
    return [
        Trial(history=e.until(t), plan=plans[i], other=others[i], glucose=one[i], other_glucose=other[i])
        for i, (e, t) in enumerate(zip(episodes, at, strict=True))
    ]


def followed(moments: Sequence[tuple[Ward, int]], plans: Array) -> Array:
    """(n, K + 1) mg/dL in plasma that plans (n, K, 2 or more) lead to, the first one now, of patient i of each ward,
    which stays as it is.
    """
    meals = np.stack([ward.meals[i, ward.time : ward.time + plans.shape[1]] for ward, i in moments], axis=1)
    simulator = Simulator.joined([(ward.simulator, i) for ward, i in moments])
    found = [simulator.glucose]
    for eaten, actions in zip(meals, plans.swapaxes(0, 1), strict=True):
        live(simulator, eaten, actions)
        found.append(simulator.glucose)
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
