"""How patients are treated in the logs: a basal rate and boluses for meals, as people do it, errors and all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError, require_whole
from foretell.spec import ActionSpec, Channel, Episode, Spec
from foretell.worlds.glucose.patients import names, patients
from foretell.worlds.glucose.sensor import Sensor
from foretell.worlds.glucose.ward import DAY, HIGHEST_BASAL, HIGHEST_BOLUS, HIGHEST_MEAL, MINUTES, Habits, Ward

Array = NDArray[np.float64]
TRAINING = tuple(n for n in names("adult", "adolescent") if int(n[-3:]) <= 7)
"""Patients to train on."""
HELD_OUT = tuple(n for n in names("adult", "adolescent") if n not in TRAINING)
"""Patients of the same groups that no model is trained on."""
CHILDREN = names("child")
"""Another population."""
_GROUP = 512
MULTIPLIERS = (0.0, 0.5, 1.0, 1.5, 2.0)
_TARGET, _CORRECT_ABOVE, _SUSPEND_BELOW = 140.0, 150.0, 80.0
TWO_HOURS = 2 * 60 // MINUTES
_PATIENCE = 3 * 60 // MINUTES
"""Steps after a bolus without another correction: insulin works on for hours."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Who is treated and how it is logged.

    patients: names; episode i is about patient i modulo their number. logs: `confounded`, treatment follows from what
    is seen; or `randomised`, the basal rate is multiplied by a factor drawn every two hours, too. days: of an episode,
    from midnight. noise, lost, bias: see `Sensor`. counting, untold, missed, late: see `Habits`. sensitivity:
    what insulin does, 1 as published.
    """

    patients: tuple[str, ...] = TRAINING
    logs: Literal["confounded", "randomised"] = "confounded"
    days: int = 2
    noise: float = 0.5
    lost: float = 0.005
    bias: float = 0.0
    sensitivity: float = 1.0
    counting: float = 0.2
    untold: float = 0.05
    missed: float = 0.05
    late: float = 0.15

    def __post_init__(self) -> None:
        names = (self.patients,) if isinstance(self.patients, str) else tuple(self.patients)
        object.__setattr__(self, "patients", names)
        if not self.patients:
            raise SpecError("glucose: at least one patient expected")
        patients(self.patients)
        if self.logs not in ("confounded", "randomised"):
            raise SpecError(f"glucose: logs must be 'confounded' or 'randomised', got {self.logs!r}")
        require_whole("glucose", self, 1, "days")
        for name in ("counting", "untold", "missed", "late"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"glucose: {name} must be a share from 0 to 1, got {getattr(self, name)!r}")
        if not 0 < self.sensitivity < 10:
            raise SpecError(f"glucose: sensitivity must be above 0 and below 10, got {self.sensitivity!r}")
        Sensor(noise=self.noise, lost=self.lost, bias=self.bias)

    @property
    def spec(self) -> Spec:
        """What is seen and done, the same for all options."""
        return SPEC

    def ward(self, names: Sequence[str], rngs: Sequence[np.random.Generator], steps: int) -> Ward:
        """Some patients, each with a random stream, for so many steps."""
        return Ward(
            patients(names),
            rngs,
            steps,
            habits=Habits(counting=self.counting, untold=self.untold, missed=self.missed, late=self.late),
            sensor=Sensor(noise=self.noise, lost=self.lost, bias=self.bias),
            sensitivity=self.sensitivity,
        )


SPEC = Spec(
    observations=(
        Channel(name="glucose", kind="vector", shape=(1,), fields=("glucose",), units=("mg/dL",)),
        Channel(name="meal", kind="vector", shape=(1,), fields=("carbohydrates",), units=("g",)),
        Channel(name="insulin", kind="vector", shape=(1,), fields=("delivered",), units=("U",)),
        Channel(name="clock", kind="vector", shape=(2,), fields=("sine", "cosine"), units=("", "")),
    ),
    # Without insulin for some time glucose rises; with too much of it a patient may die within the hour.
    action=ActionSpec(
        names=("basal", "bolus", "carbohydrates"),
        units=("U/h", "U", "g"),
        low=(0.0, 0.0, 0.0),
        high=(HIGHEST_BASAL, HIGHEST_BOLUS, HIGHEST_MEAL),
        safe=(0.0, 0.0, 0.0),
        exogenous=("carbohydrates",),
    ),
    hz=1 / (60 * MINUTES),
    quantities=(Channel(name="plasma", kind="vector", shape=(1,), fields=("glucose",), units=("mg/dL",)),),
    notice="For research. Not a medical device.",
)


class BasalBolus:
    """The usual treatment: each patient's basal rate, none below 80 mg/dL, and boluses for carbohydrates that people
    ask one for, with a correction where glucose is high and no bolus was given for three hours.
    """

    def __init__(self, ward: Ward) -> None:
        self._ward, p = ward, ward.patients
        self.basal, self.ratio, self.factor = p.basal, p["carb_ratio"], p["correction_factor"]
        n = len(ward)
        self._since = np.full(n, _PATIENCE)
        self.known = np.full(n, _TARGET)

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]], multiplier: Array) -> Array:
        """(n, 2) basal in U/h, times the multiplier (n,), and bolus in U."""
        self.known = np.where(there["glucose"], observed["glucose"][:, 0], self.known)
        asked = self._ward.asked[:, self._ward.time]
        correct = (self.known > _CORRECT_ABOVE) & (self._since >= _PATIENCE)
        bolus = np.where(
            asked > 0, asked / self.ratio + correct * np.maximum(self.known - _TARGET, 0) / self.factor, 0.0
        )
        self._since = np.where(bolus > 0, 0, self._since + 1)
        basal = self.basal * multiplier * (self.known >= _SUSPEND_BELOW)
        return np.stack([np.clip(basal, 0, HIGHEST_BASAL), np.clip(bolus, 0, HIGHEST_BOLUS)], axis=1)


def logged(options: Options, count: int, *, seed: int, first: int = 0) -> Iterator[Episode]:
    """Episodes `first` to first + count - 1 of `options.days` days; episode i depends on (seed, i) alone."""
    for begin in range(first, first + count, _GROUP):
        numbers = range(begin, min(begin + _GROUP, first + count))
        who = [options.patients[i % len(options.patients)] for i in numbers]
        yield from logged_group(options, who, [np.random.default_rng([seed, 0x61C, i]) for i in numbers])


def logged_group(
    options: Options,
    who: Sequence[str],
    rngs: Sequence[np.random.Generator],
    before: Callable[[Ward], None] = lambda ward: None,
) -> Iterator[Episode]:
    """Episodes of some patients together, each with a random stream. before: called before each step."""
    steps, n = options.days * DAY, len(rngs)
    factors = [rng.spawn(1)[0].choice(MULTIPLIERS, -(-steps // TWO_HOURS)) for rng in rngs]
    ward = options.ward(who, rngs, steps)
    policy = BasalBolus(ward)
    seen: dict[str, list[Array]] = {c.name: [] for c in SPEC.channels}
    there, actions = [], []
    for t in range(steps + 1):
        observed, mask = ward.observed()
        for name, values in observed.items():
            seen[name].append(values)
        seen["plasma"].append(ward.glucose[:, None])
        there.append(mask["glucose"])
        if t < steps:
            before(ward)
            multiplier = np.array([f[t // TWO_HOURS] for f in factors]) if options.logs == "randomised" else np.ones(n)
            given = policy.act(observed, mask, multiplier)
            # As they are recorded, so that what is recorded is what was done.
            actions.append(np.concatenate([given, observed["meal"]], axis=1).astype(np.float32))
            ward.step(actions[-1].astype(np.float64))
    recorded = {name: np.stack(each, axis=1).astype(np.float32) for name, each in seen.items()}
    valid, acted = np.stack(there, axis=1), np.stack(actions, axis=1)
    for i in range(n):
        yield Episode(
            observations={name: v[i] for name, v in recorded.items()},
            actions=acted[i],
            valid={"glucose": valid[i]},
            group=who[i],
        )
