"""What goes wrong unannounced: another kind of patient, a sensor, doses, an illness. Nothing is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import Episode
from foretell.worlds.glucose.behaviour import CHILDREN, Options, logged_group
from foretell.worlds.glucose.sensor import HIGHEST, LOWEST, Sensor
from foretell.worlds.glucose.ward import DAY, Ward

Array = NDArray[np.float64]
Event = Literal["children", "bias", "dead", "dose", "sensitivity"]
EVENTS: tuple[Event, ...] = get_args(Event)
BIAS = 60.0
"""mg/dL that a biased sensor shows too much."""
BOLUSES, ANSWER = 3.0, 2.0
"""By how much boluses become larger than those in logs, and by how much insulin does more in an illness. Twice the
bolus of an adolescent is what many an adult is given, so that the logs do hold it."""
_GROUP = 128


class Happens:
    """An event in a ward: at its onset (n,), a step of each patient's, things change; `before` is called before each
    step.

    children: another population, which only `disturbed` brings about. bias: the sensor shows 60 mg/dL too much. dead:
    it shows its last reading for ever. dose: people ask for three times the insulin for each meal.
    sensitivity: insulin does twice as much. Raises SpecError for another event.
    """

    def __init__(self, event: Event, onset: NDArray[np.int64], *, boluses: float = BOLUSES) -> None:
        if event not in EVENTS:
            raise SpecError(f"glucose: an event of {', '.join(EVENTS)} expected, got {event!r}")
        self.event, self.onset, self.boluses = event, onset, boluses

    def before(self, ward: Ward) -> None:
        """Let it happen to those whose time has come."""
        begins = self.onset == ward.time
        if not begins.any():
            return
        if self.event in ("bias", "dead"):
            sensor: Any = ward.sensor
            if not isinstance(sensor, _Faulty):
                sensor = _Faulty(sensor, np.zeros(len(ward)), np.full(len(ward), np.nan))
            shown = ward.observed()[0]["glucose"][:, 0]
            ward.sensor = (
                replace(sensor, shift=np.where(begins, BIAS, sensor.shift))
                if self.event == "bias"
                else replace(sensor, stuck=np.where(begins, shown, sensor.stuck))
            )
        elif self.event == "dose":
            ward.asked[begins, ward.time :] *= self.boluses
        elif self.event == "sensitivity":
            before = ward.simulator.sensitivity
            ward.simulator.answer(np.where(begins, ANSWER * before, before))


@dataclass(frozen=True)
class _Faulty:
    """A sensor some of whose wearers get wrong readings. shift: (n,) mg/dL. stuck: (n,) mg/dL, NaN where it is not."""

    sensor: Sensor
    shift: Array
    stuck: Array

    def reads(self, glucose: Array, noise: Array) -> Array:
        """See `Sensor`."""
        shown = np.clip(self.sensor.reads(glucose, noise) + self.shift, LOWEST, HIGHEST)
        return np.where(np.isnan(self.stuck), shown, self.stuck)


def disturbed(
    event: Event, options: Options, count: int, *, seed: int, boluses: float = BOLUSES
) -> Iterator[tuple[Episode, int]]:
    """`count` episodes of logged care in which an event happens, each with its onset: some step of the first half of
    the second day; for children, 0. Episode i depends on (seed, i) alone and is, before the onset, the ordinary one.

    Raises SpecError for another event and for episodes shorter than two days.
    """
    if options.days < 2:
        raise SpecError(f"glucose: events happen on the second day, got episodes of {options.days}")
    if event == "children":
        options = replace(options, patients=CHILDREN)
    for first in range(0, count, _GROUP):
        numbers = range(first, min(first + _GROUP, count))
        who = [options.patients[i % len(options.patients)] for i in numbers]
        drawn = [int(np.random.default_rng([seed, 0xE7E, i]).integers(DAY, DAY + DAY // 2)) for i in numbers]
        onset = np.array([0 if event == "children" else at for at in drawn])
        happens = Happens(event, onset, boluses=boluses)
        rngs = [np.random.default_rng([seed, 0x61C, i]) for i in numbers]
        yield from zip(logged_group(options, who, rngs, happens.before), onset.tolist(), strict=True)
