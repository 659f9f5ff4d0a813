"""What a model of glucose answers about patients whom it has not learned from: forecasts, what-ifs, treatment, trust.

For research, not a medical device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import SpecError
from foretell.evaluation.treatment import Planned, Treats, Usual, groups, treat
from foretell.evaluation.what_if import WhatIf, what_if
from foretell.model.readout import Grounded
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.trust.calibration import Seen, see
from foretell.trust.intervals import Intervals, LiveIntervals, ahead, errors_ahead, fit_intervals
from foretell.trust.overlap import Overlap
from foretell.worlds.glucose import Options, Trial, Ward, shares, trials
from foretell.worlds.glucose.behaviour import TWO_HOURS, logged_group
from foretell.worlds.glucose.events import Event, Happens
from foretell.worlds.glucose.trials import AHEAD, Kind, followed
from foretell.worlds.glucose.ward import DAY, MINUTES

Array = NDArray[np.float64]
HORIZONS = tuple(range(6, AHEAD + 1, 6))
"""Steps ahead that intervals are made for: half hours, up to four of them hours."""
MINUTES_AHEAD = (30, 60, 120, 240)
LEVEL = 0.9
_RATE = 0.005
"""How fast widths follow: at four times as fast a quarter of the intervals has no ends, after bad hours."""
NOON = DAY + DAY // 2
"""The step at which things go wrong."""


@dataclass(frozen=True)
class Life:
    """Two days of a patient: what was recorded, and the ward at each step of the second day, for what nobody sees."""

    episode: Episode
    wards: Mapping[int, Ward]

    @property
    def untold(self) -> Array:
        """(T,) g of carbohydrates that were eaten and not told of."""
        ward = self.wards[DAY]
        return np.where(ward.told[0] > 0, 0.0, ward.meals[0])[: len(self.episode)]


def lived(options: Options, who: str, seed: Sequence[int], *, fault: Event | None = None) -> Life:
    """Two logged days of one patient. fault: what goes wrong from noon of the second day on."""
    wards: dict[int, Ward] = {}

    def keep(ward: Ward) -> None:
        if ward.time >= DAY:
            wards[ward.time] = ward.copied()

    return Life(_recorded(options, [who], [seed], fault, keep)[0], wards)


def recorded(
    options: Options, who: Sequence[str], seeds: Sequence[Sequence[int]], *, fault: Event | None = None
) -> list[Episode]:
    """Two logged days of each patient, the same as `lived` with that seed."""
    return _recorded(options, who, seeds, fault, lambda ward: None)


def _recorded(
    options: Options,
    who: Sequence[str],
    seeds: Sequence[Sequence[int]],
    fault: Event | None,
    keep: Callable[[Ward], None],
) -> list[Episode]:
    happens = None if fault is None else Happens(fault, np.full(len(who), NOON))

    def before(ward: Ward) -> None:
        if happens is not None:
            happens.before(ward)
        keep(ward)

    return list(logged_group(replace(options, days=2), who, [np.random.default_rng(s) for s in seeds], before))


def readings(episode: Episode) -> Tensor:
    """(T, 1) mg/dL, NaN where there is no reading."""
    there = episode.valid.get("glucose", np.ones(len(episode), np.bool_)).reshape(len(episode), -1)[:, 0]
    values = np.where(there, episode.observations["glucose"][:, 0], np.nan)
    return torch.from_numpy(values.astype(np.float32))[:, None]


def errors_of(model: WorldModel, episode: Episode, seen: Seen) -> Tensor:
    """(T, H, 1) forecasts of glucose made at each step minus what was shown then, NaN where unknown."""
    return errors_ahead(model, Grounded(model, "glucose"), seen.latents, seen.actions, readings(episode), HORIZONS)


def intervals_by_group(
    model: WorldModel, episodes: Sequence[Episode], errors: Sequence[Tensor]
) -> tuple[Intervals, dict[str, Intervals]]:
    """Around forecasts of glucose, from the errors of calibration episodes: of all, and of adults and adolescents
    apart. DataError where the episodes are too short.
    """
    reads = Grounded(model, "glucose")
    kinds = groups([e.group for e in episodes]).tolist()
    apart = {
        k: fit_intervals(reads, HORIZONS, [x for x, kind in zip(errors, kinds, strict=True) if kind == k], steps=60)
        for k in sorted(set(kinds))
    }
    return fit_intervals(reads, HORIZONS, errors, steps=60), apart


@dataclass(frozen=True)
class Foreseen:
    """Forecasts made through an episode of T steps, H horizons. truth: (T,) readings, NaN where there is none.

    said, low, high: (T, H) of the reading so much later, with the ends of its 90% interval.
    """

    group: str
    truth: Array
    said: Array
    low: Array
    high: Array

    def errors(self, minutes: int) -> tuple[Array, Array]:
        """Of forecasts made on the second day, where a reading came: what the model and what the last reading was off
        by, (n,) each.
        """
        k, h = HORIZONS.index(minutes // MINUTES), minutes // MINUTES
        last = np.maximum.accumulate(np.where(np.isnan(self.truth), 0, np.arange(len(self.truth))))
        now = np.arange(DAY, len(self.truth) - h)
        then = self.truth[now + h]
        known = ~np.isnan(then) & ~np.isnan(self.said[now, k])
        now, then = now[known], then[known]
        return self.said[now, k] - then, self.truth[last[now]] - then

    @property
    def unbounded(self) -> float:
        """The share of forecasts of the second day whose interval has no ends: after many misses nothing is sure."""
        widths = (self.high - self.low)[DAY:]
        return float(np.isinf(widths)[~np.isnan(widths)].mean())

    def half_width(self, minutes: int) -> float:
        """Half the median width, mg/dL, of intervals so many minutes ahead, on the second day."""
        k = HORIZONS.index(minutes // MINUTES)
        return float(np.nanmedian((self.high - self.low)[DAY:, k]) / 2)

    def inside(self, minutes: int) -> Array:
        """(n,) whether the readings lay inside, likewise."""
        k, h = HORIZONS.index(minutes // MINUTES), minutes // MINUTES
        now = np.arange(DAY, len(self.truth) - h)
        then, low, high = self.truth[now + h], self.low[now, k], self.high[now, k]
        known = ~np.isnan(then) & ~np.isnan(low)
        return np.asarray(((then >= low) & (then <= high))[known], np.float64)


def foreseen(model: WorldModel, episode: Episode, around: Intervals) -> Foreseen:
    """Forecast an episode as it goes on; widths follow what turns out."""
    seen, truth = see(model, episode), readings(episode)
    said = ahead(model, Grounded(model, "glucose"), seen.latents, seen.actions, HORIZONS)
    live = LiveIntervals(around, level=LEVEL, rate=_RATE)
    ends = [live.step(one, now) for one, now in zip(said, truth, strict=True)]
    low, high = (torch.stack(each)[:, :, 0].double().numpy() for each in zip(*ends, strict=True))
    return Foreseen(episode.group, truth[:, 0].double().numpy(), said[:, :, 0].double().numpy(), low, high)


@dataclass(frozen=True)
class Question:
    """Another plan, in words, asked about at a step. said: the answer, or None where `refused` says why none is made.

    truth, other_truth: (49,) mg/dL that follow as planned and otherwise, from copies of the patient.
    """

    asked: str
    at: int
    said: WhatIf | None
    refused: str
    truth: Array
    other_truth: Array

    @property
    def answered(self) -> bool:
        """Whether an effect is given."""
        return self.said is not None and self.said.answered

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why none is."""
        return self.said.doubts if self.said is not None else (self.refused,)


def questions(
    model: WorldModel, overlap: Overlap, around: Intervals, life: Life, longest: int
) -> tuple[WhatIf, list[Question]]:
    """What is expected as planned at the largest bolus of the second day, and what otherwise: no bolus, a later one, no
    basal rate, a huge dose, one that no pump gives; and of a bolus at a time without a meal.
    """
    plan, at = _meal(life)
    bolus, none = float(plan[0, 1]), _quiet(life)
    now, later, while_off = slice(1), slice(6, 7), slice(TWO_HOURS)
    asked: list[tuple[str, int, list[tuple[slice, int, float]]]] = [
        (f"the bolus of {bolus:.2g} U forgotten", at, [(now, 1, 0.0)]),
        (f"the bolus of {bolus:.2g} U half an hour later", at, [(now, 1, 0.0), (later, 1, bolus)]),
        ("no basal rate for two hours", at, [(while_off, 0, 0.0)]),
        ("30 U instead, all that the pump can give", at, [(now, 1, 30.0)]),
        ("40 U instead", at, [(now, 1, 40.0)]),
        (f"{bolus:.2g} U at {_clock(none)}, when nothing is eaten", none, [(now, 1, bolus)]),
    ]
    made = []
    for words, step, changes in asked:
        one = _usual(life, step)
        other = one.copy()
        for when, action, value in changes:
            other[when, action] = value
        said, refused = None, ""
        try:
            said = _ask(model, overlap, around, life.episode.until(step), one, other, longest)
        except SpecError as error:
            refused = str(error)
        truth, other_truth = (followed([(life.wards[step], 0)], p[None])[0] for p in (one, other))
        made.append(Question(words, step, said, refused, truth, other_truth))
    return _ask(model, overlap, around, life.episode.until(at), plan, plan, longest), made


def _ask(
    model: WorldModel, overlap: Overlap, around: Intervals, history: Episode, one: Array, other: Array, longest: int
) -> WhatIf:
    reads = Grounded(model, "glucose")
    return what_if(model, reads, overlap, history, one, other, longest=longest, intervals=around, level=LEVEL)


def _usual(life: Life, at: int) -> Array:
    """(48, 3) the usual basal rate, and boluses and meals as they came."""
    plan = np.asarray(life.episode.actions[at : at + AHEAD], np.float64).copy()
    plan[:, 0] = life.wards[DAY].patients.basal[0]
    return plan


def _meal(life: Life) -> tuple[Array, int]:
    """The plan at, and the step of, the largest bolus of the second day that four hours follow."""
    at = DAY + int(life.episode.actions[DAY : 2 * DAY - AHEAD, 1].argmax())
    return _usual(life, at), at


def _quiet(life: Life) -> int:
    """The first step of the second day, from three o'clock on, around which for two hours nothing is told of."""
    ward = life.wards[DAY]
    busy = ward.told[0] + ward.asked[0] + ward.meals[0]
    steps = range(DAY + DAY // 8, 2 * DAY - AHEAD)
    return next((t for t in steps if not busy[t - TWO_HOURS : t + TWO_HOURS].any()), steps[0])


def _clock(step: int) -> str:
    minutes = step % DAY * MINUTES
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


@dataclass(frozen=True)
class Effects:
    """What-ifs about several patients. answered: their share. ratio: by minutes, the root mean square error of the
    effects over that of the true ones, of what is answered; 1 is as good as 'no effect'. sign: how often the direction
    is right where the effect is more than 10 mg/dL.
    """

    asked: int
    answered: float
    ratio: dict[int, float]
    sign: dict[int, float]


def effects(
    model: WorldModel, overlap: Overlap, options: Options, count: int, kind: Kind, *, seed: int, longest: int
) -> Effects:
    """Of `count` trials of a kind, spread over the patients."""
    asked: list[Trial] = list(trials(options, count, kind, seed=seed))
    reads = Grounded(model, "glucose")
    said = [what_if(model, reads, overlap, t.history, t.plan, t.other, longest=longest) for t in asked]
    answered = [(s, t) for s, t in zip(said, asked, strict=True) if s.answered]
    ratio, sign = {}, {}
    for minutes in (120, 240):
        step = minutes // MINUTES
        told = np.array([np.asarray(s.effect)[s.steps.index(step), 0] for s, _ in answered])
        true = np.array([t.effect[step] for _, t in answered])
        big = np.abs(true) > 10
        ratio[minutes] = (
            float(np.sqrt(np.square(told - true).mean() / np.square(true).mean())) if true.any() else np.nan
        )
        sign[minutes] = float((np.sign(told) == np.sign(true))[big].mean()) if big.any() else np.nan
    return Effects(len(asked), len(answered) / max(len(asked), 1), ratio, sign)


@dataclass(frozen=True)
class Course:
    """n patients under one treatment. glucose: (n, T) mg/dL after each step; given: (n, T, 2) basal in U/h, bolus in U.

    told: (n, T) g of carbohydrates that were told of.
    """

    glucose: Array
    given: Array
    told: Array

    def shares(self, *chosen: int) -> dict[str, float]:
        """What clinicians count, of some of the patients (none named: of all); see `risk.shares`."""
        return shares(self.glucose[list(chosen)] if chosen else self.glucose)


class _Noted:
    """A treatment that keeps what it gave."""

    def __init__(self, treats: Treats) -> None:
        self.treats, self.given = treats, list[Array]()

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]]) -> Array:
        """See `Treats`."""
        self.given.append(self.treats.act(observed, there))
        return self.given[-1]


def courses(model: WorldModel, who: Sequence[str], days: int, *, seed: int) -> dict[str, Course]:
    """The same lives twice: `planned` with the model, and `usual`, as prescribed; a tenth of meals is not told of."""
    care = Options(patients=tuple(who), untold=0.1, missed=0.0, late=0.0)
    found = {}
    doctors: dict[str, Callable[[Ward], Treats]] = {"planned": lambda w: Planned(w, model), "usual": Usual}
    for name, doctor in doctors.items():
        noted: list[_Noted] = []

        def begin(ward: Ward, doctor: Callable[[Ward], Treats] = doctor, noted: list[_Noted] = noted) -> Treats:
            noted.append(_Noted(doctor(ward)))
            return noted[-1]

        ward = care.ward(who, [np.random.default_rng([seed, i]) for i in range(len(who))], days * DAY)
        glucose = treat(ward, begin, days * DAY)
        found[name] = Course(glucose, np.stack(noted[0].given, axis=1), ward.told[:, : days * DAY])
    return found
