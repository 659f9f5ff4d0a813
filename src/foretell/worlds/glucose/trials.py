"""What if it had been treated otherwise: two copies of the same patients, the same life, two insulin plans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import Episode
from foretell.worlds.glucose.behaviour import MULTIPLIERS, TWO_HOURS, Options, logged_group
from foretell.worlds.glucose.ward import DAY, HIGHEST_BASAL, HIGHEST_BOLUS, Ward

Array = NDArray[np.float64]
Kind = Literal["basal", "bolus", "outside"]
AHEAD = 48
"""Steps of a plan: four hours."""
_GROUP = 32
"""Trials that begin at one time."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One patient at one moment. history: all that was seen and done until then, its last observation the present.

    plan, other: (48, 2) what was done from then on, and what is done instead. glucose, other_glucose: (49,) mg/dL in
    plasma that follow, the first one now.
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

    basal: basal multipliers drawn anew, as `randomised` logs have them. bolus: each bolus of the plan left out, halved
    or half as large again, as people err. outside: a bolus of 0.02 to 0.06 U per kg without a meal,
    which no logs have. Raises SpecError for another kind.
    """
    if kind not in ("basal", "bolus", "outside"):
        raise SpecError(f"glucose: a trial of basal, bolus or outside expected, got {kind!r}")
    for first in range(0, count, _GROUP):
        numbers = range(first, min(first + _GROUP, count))
        who = [options.patients[i % len(options.patients)] for i in numbers]
        draws = [np.random.default_rng([seed, 0x7121, i]) for i in numbers]
        at = DAY + int(np.random.default_rng([seed, 0x7122, first]).integers(DAY - AHEAD))
        now: list[Ward] = []

        def keep(ward: Ward, at: int = at, now: list[Ward] = now) -> None:
            if ward.time == at:
                now.append(ward.copied())

        rngs = [np.random.default_rng([seed, 0x61C, i]) for i in numbers]
        episodes = list(logged_group(replace(options, days=2), who, rngs, keep))
        plans = np.stack([e.actions[at : at + AHEAD] for e in episodes]).astype(np.float64)
        others = np.stack([_otherwise(kind, plan, now[0], i, draws[i]) for i, plan in enumerate(plans)])
        glucose, other_glucose = (_followed(now[0].copied(), each) for each in (plans, others))
        for i, episode in enumerate(episodes):
            history = Episode(
                observations={n: x[: at + 1] for n, x in episode.observations.items()},
                actions=episode.actions[:at],
                valid={n: x[: at + 1] for n, x in episode.valid.items()},
                group=episode.group,
            )
            yield Trial(
                history=history,
                plan=plans[i],
                other=others[i],
                glucose=glucose[:, i],
                other_glucose=other_glucose[:, i],
            )


def _otherwise(kind: Kind, plan: Array, ward: Ward, i: int, rng: np.random.Generator) -> Array:
    """Another plan (48, 2) for patient i of a ward as it is now."""
    other = plan.copy()
    if kind == "basal":
        steps = np.arange(ward.time, ward.time + AHEAD) // TWO_HOURS
        factors = rng.choice(MULTIPLIERS, steps[-1] + 1)
        other[:, 0] = np.minimum(ward.patients.basal[i] * factors[steps], HIGHEST_BASAL)
    elif kind == "bolus":
        other[:, 1] = np.minimum(other[:, 1] * rng.choice([0.0, 0.5, 1.5], AHEAD), HIGHEST_BOLUS)
    else:
        other[0, 1] = min(other[0, 1] + rng.uniform(0.02, 0.06) * ward.patients["BW"][i], HIGHEST_BOLUS)
    return other


def _followed(ward: Ward, plans: Array) -> Array:
    """(49, n) glucose that plans (n, 48, 2) lead to."""
    found = [ward.glucose]
    for actions in plans.swapaxes(0, 1):
        ward.step(actions)
        found.append(ward.glucose)
    return np.stack(found)
