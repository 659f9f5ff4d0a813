"""Patients in everyday life: meals as they come, what is told of them, a sensor, and a pump that does as it is told.

A step is five minutes. Each patient's life (meals, errors in counting them, the sensor's noise) is drawn beforehand
from a random stream of its own: the same whatever treatment is given.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from foretell.worlds.glucose.patients import Patients
from foretell.worlds.glucose.sensor import Sensor
from foretell.worlds.glucose.simulator import Simulator

Array = NDArray[np.float64]
MINUTES = 5
DAY = 24 * 60 // MINUTES
"""Steps of a day."""
HIGHEST_BASAL, HIGHEST_BOLUS = 8.0, 30.0
"""U/h and U that the pump can give."""
HIGHEST_MEAL = 500.0
"""g of carbohydrates that can be told of at once."""
# Breakfast, lunch, dinner with snacks between: chance, earliest and latest hour, usual hour, its spread, and g of
# carbohydrates of a patient of 70 kg with their spread.
_MEALS = (
    (0.95, 5.0, 9.0, 7.0, 1.0, 45.0, 10.0),
    (0.30, 9.0, 10.0, 9.5, 0.5, 10.0, 5.0),
    (0.95, 10.0, 14.0, 12.0, 1.0, 70.0, 10.0),
    (0.30, 14.0, 16.0, 15.0, 0.5, 10.0, 5.0),
    (0.95, 16.0, 20.0, 18.0, 1.0, 80.0, 10.0),
    (0.30, 20.0, 23.0, 21.5, 0.5, 10.0, 5.0),
)
_WEIGHT = 70.0


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How meals are told of and boluses asked for. counting: spread of the error in counting carbohydrates, a share.
    untold: chance that a meal is not told of at all, so that no bolus is asked for; missed: that it is told of and the
    bolus forgotten; late: that the bolus is asked for 15 to 45 minutes after the meal.
    """

    counting: float = 0.2
    untold: float = 0.05
    missed: float = 0.05
    late: float = 0.15


class Ward:
    """n patients from midnight on, for `steps` steps at most.

    rngs: a random stream for each. meals, told, asked: (n, steps) g of carbohydrates that are put on the table at a
    step, that are told of then, and that people ask a bolus for.
    """

    def __init__(
        self,
        patients: Patients,
        rngs: Sequence[np.random.Generator],
        steps: int,
        *,
        habits: Habits | None = None,
        sensor: Sensor | None = None,
        sensitivity: float = 1.0,
    ) -> None:
        n, habits = len(patients), habits or Habits()
        self.sensor = sensor or Sensor()
        self.simulator = Simulator(patients, np.full(n, sensitivity))
        self.time = 0
        life = [rng.spawn(3) for rng in rngs]
        self.meals, self.told, self.asked = (np.zeros((n, steps + 1)) for _ in range(3))
        for i, (meals, _, _) in enumerate(life):
            self._draw(i, meals, habits, float(patients["BW"][i]))
        self._noise = self.sensor.noises([s[1] for s in life], steps + 1, MINUTES)
        self._there = self.sensor.there([s[2] for s in life], steps + 1)
        # A pump at rest has given its basal rate.
        self.given: Array = patients.basal * MINUTES / 60

    def __len__(self) -> int:
        return len(self.simulator)

    @property
    def patients(self) -> Patients:
        """Who lies here."""
        return self.simulator.patients

    @property
    def glucose(self) -> Array:
        """(n,) mg/dL in plasma, which nobody sees."""
        return self.simulator.glucose

    def copied(self) -> Self:
        """The same patients with the same life before them, to try another treatment on."""
        other = copy.copy(self)
        other.simulator = self.simulator.copied()
        return other

    def observed(self) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]:
        """What is seen now, by channel (n, F), and whether it is there, (n,)."""
        angle = 2 * np.pi * (self.time % DAY) / DAY
        n = len(self)
        return (
            {
                "glucose": self.sensor.reads(self.simulator.sensed, self._noise[:, self.time])[:, None],
                "meal": self.told[:, self.time, None],
                "insulin": self.given[:, None],
                "clock": np.tile([np.sin(angle), np.cos(angle)], (n, 1)),
            },
            {"glucose": self._there[:, self.time]},
        )

    def step(self, actions: Array) -> None:
        """Five minutes with (n, 2 or more) basal rates in U/h and boluses in U, as far as the pump can give them."""
        self.given = live(self.simulator, self.meals[:, self.time], actions)
        self.time += 1

    def _draw(self, i: int, rng: np.random.Generator, habits: Habits, weight: float) -> None:
        """One patient's meals, larger for the heavy as their needs are (weight^0.75, Kleiber 1932)."""
        steps = self.meals.shape[1]
        for day in range(-(-steps // DAY)):
            for chance, earliest, latest, usual, spread, amount, around in _MEALS:
                eats, tells, counts, delay = rng.random(), rng.random(2), rng.standard_normal(), rng.uniform(15, 45)
                hour = float(np.clip(rng.normal(usual, spread), earliest, latest))
                grams = max(amount / 4, rng.normal(amount, around)) * (weight / _WEIGHT) ** 0.75
                at = day * DAY + int(hour * 60 / MINUTES)
                if eats >= chance or at >= steps:
                    continue
                self.meals[i, at] += grams
                counted = min(max(0.0, grams * (1 + habits.counting * counts)), HIGHEST_MEAL)
                if tells[0] >= habits.untold:
                    self.told[i, at] += counted
                later = at + (int(delay / MINUTES) if tells[1] < habits.late else 0)
                if tells[0] >= habits.untold + habits.missed and later < steps:
                    self.asked[i, later] += counted


def live(simulator: Simulator, meals: Array, actions: Array) -> Array:
    """A step of simulated patients with meals (n,) put on the table; see `Ward.step`. Returns U that were given."""
    basal = np.clip(actions[:, 0], 0, HIGHEST_BASAL) / 60
    bolus = np.clip(actions[:, 1], 0, HIGHEST_BOLUS) / MINUTES
    simulator.eat(meals)
    for _ in range(MINUTES):
        simulator.minute(basal + bolus)
    return np.asarray(MINUTES * (basal + bolus))
