"""Glucose in type 1 diabetes: virtual patients, a sensor, a pump, everyday life. For research; not a medical device."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from foretell.errors import SpecError
from foretell.spec import Episode, Spec
from foretell.worlds.glucose.behaviour import CHILDREN, HELD_OUT, TRAINING, BasalBolus, Options, logged
from foretell.worlds.glucose.environment import GlucoseEnv
from foretell.worlds.glucose.patients import Patients, names, patients
from foretell.worlds.glucose.risk import risk, shares
from foretell.worlds.glucose.sensor import Sensor
from foretell.worlds.glucose.simulator import Simulator
from foretell.worlds.glucose.trials import Trial, trials
from foretell.worlds.glucose.ward import Habits, Ward
from foretell.worlds.world import Task, chosen

__all__ = [
    "CHILDREN",
    "HELD_OUT",
    "TRAINING",
    "BasalBolus",
    "Glucose",
    "GlucoseEnv",
    "Habits",
    "Options",
    "Patients",
    "Sensor",
    "Simulator",
    "Trial",
    "Ward",
    "logged",
    "names",
    "patients",
    "risk",
    "shares",
    "trials",
]


class Glucose:
    """The world `glucose`; options are the fields of `Options`, SpecError for any other."""

    name = "glucose"

    def __init__(self, **options: Any) -> None:
        self._options = chosen(Options, self.name, options)
        self.spec: Spec = self._options.spec
        self.options: Mapping[str, Any] = dataclasses.asdict(self._options)

    def episodes(self, count: int, *, seed: int, first: int = 0) -> Iterator[Episode]:
        """Episodes `first` to first + count - 1 of logged care, a group for each patient; see `logged`."""
        return logged(self._options, count, seed=seed, first=first)

    def task(self, **options: Any) -> Task:
        """Raises SpecError: what patients are treated for is a range of glucose, not an observation to reach."""
        raise SpecError("glucose sets no goals that are observations to reach")
