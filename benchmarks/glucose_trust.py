"""Trust in glucose: does the model say when a patient, a sensor or doses are not what it learned from?

Calibrated on other days of the patients that it learned from, asked about patients that it did not: nothing of it was
trained on any event of `foretell.worlds.glucose.events`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.glucose_made import HELD, MINUTES_AHEAD, SEEDS, Array, made, readings
from benchmarks.result import Options, Row
from foretell.evaluation.glucose_answers import HORIZONS, errors_of
from foretell.evaluation.glucose_watch import departures_in, given
from foretell.evaluation.treatment import Planned, Treats, Usual, treat
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.trust.calibration import see
from foretell.trust.departures import Departed, Departures, departures_of
from foretell.worlds.glucose import CHILDREN, HELD_OUT, Ward, logged, shares
from foretell.worlds.glucose import Options as Care
from foretell.worlds.glucose.events import EVENTS, Event, Happens, disturbed
from foretell.worlds.glucose.ward import DAY, MINUTES

LEVEL = 0.05
"""Share of ordinary days that may alarm."""
DOUBLED = "dose_doubled"
"""Twice the bolus, beside the three times of `dose`."""
_COVERED = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_CALIBRATION, _ORDINARY, _EVENTS, _LIVES = HELD + 10, HELD + 11, HELD + 12, HELD + 13


@dataclass(frozen=True)
class Watched:
    """Episodes, each with the step at which an event begins, what is made of them, and errors (T, H) of forecasts."""

    onset: NDArray[np.int64]
    found: list[Departed]
    errors: list[Array]
    far: list[Array]

    def highest(self, onset: NDArray[np.int64]) -> Array:
        """(E,) the highest score from a step on."""
        return np.array([float(d.score[at:].max()) for d, at in zip(self.found, onset, strict=True)])

    def furthest(self, onset: NDArray[np.int64]) -> Array:
        """(E,) the trivial detector: the reading furthest from what is usual, from a step on."""
        return np.array([np.nanmax(far[at:]) for far, at in zip(self.far, onset, strict=True)])

    def alarmed(self, onset: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(E,) whether there is an alarm from a step on."""
        return np.array([bool(d.alarms(LEVEL)[at:].any()) for d, at in zip(self.found, onset, strict=True)])


def _errors(model: WorldModel, episodes: Sequence[Episode]) -> list[Tensor]:
    """(T, H, 1) of the forecasts made at each step of episodes."""
    return [errors_of(model, e, see(model, e)) for e in episodes]


@functools.cache
def watch(seed: int, options: Options) -> Departures:
    """Calibrated on other days of the patients to learn from."""
    care = Care(logs="randomised")
    known = list(logged(care, 14 if options.quick else 140, seed=_CALIBRATION))
    return departures_in(known, _errors(made(seed, options)["randomised"].model, known))


@functools.cache
def watched(seed: int, options: Options, what: str) -> Watched:
    """Two days of held-out patients, `ordinary` or with an event."""
    care = Care(logs="randomised", patients=HELD_OUT)
    if what == "ordinary":
        both = [(e, 0) for e in logged(care, 6 if options.quick else 60, seed=_ORDINARY)]
    else:
        event: Event = "dose" if what == DOUBLED else what  # type: ignore[assignment]
        boluses = {"boluses": 2.0} if what == DOUBLED else {}
        both = list(disturbed(event, care, 6 if options.quick else 60, seed=_EVENTS, **boluses))
    episodes = [e for e, _ in both]
    errors = _errors(made(seed, options)["randomised"].model, episodes)
    values, actions = [readings(e) for e in episodes], [given(e) for e in episodes]
    return Watched(
        onset=np.array([at for _, at in both]),
        found=departures_of(watch(seed, options), values, errors, actions),
        errors=[e[..., 0].double().numpy() for e in errors],
        far=[np.abs(np.log(v[:, 0].double().numpy() / 140)) for v in values],
    )


def event_rows(event: Event, options: Options) -> Iterator[Row]:
    """The area under the curve of the highest score from the event on, against ordinary days from the same step on."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    beside: dict[str, list[float]] = {}
    scores: list[tuple[Array, Array]] = []
    for seed in seeds:
        plain = watched(seed, options, "ordinary")
        for what in (event, DOUBLED) if event == "dose" else (event,):
            found = watched(seed, options, what)
            typical = np.full(len(plain.found), int(np.median(found.onset)))
            both = plain.highest(typical), found.highest(found.onset)
            if what == DOUBLED:
                beside.setdefault("auroc_doubled", []).append(_area(*both))
                continue
            scores.append(both)
            said = {
                "reading_alone": _area(plain.furthest(typical), found.furthest(found.onset)),
                "detected": found.alarmed(found.onset).mean(),
                "false_alarm": plain.alarmed(plain.onset).mean(),
            }
            for name, value in said.items():
                beside.setdefault(name, []).append(float(value))
    low, high = _spread(scores)
    yield Row(
        id=f"glucose.trust.{event}",
        value=float(np.mean([_area(*both) for both in scores])),
        interval=(low, high),
        n=len(scores[0][1]),
        seeds=seeds,
        unit="area",
        baselines={name: float(np.mean(values)) for name, values in beside.items()},
    )


def risk(options: Options) -> Iterator[Row]:
    """Root mean squared error of forecasts two and four hours ahead that are made where the score is lowest, ordinary
    days and days with every event together: of half of them; beside it, of other shares. `falls`: the share of steps
    from one share to the next smaller one at which it falls.
    """
    seeds = SEEDS[:1] if options.quick else SEEDS
    for minutes in MINUTES_AHEAD[2:]:
        horizon = minutes // MINUTES
        column = HORIZONS.index(horizon)
        by_share = []
        for seed in seeds:
            off, score = [], []
            for what in ("ordinary", *EVENTS):
                found = watched(seed, options, what)
                for departed, errors in zip(found.found, found.errors, strict=True):
                    at = np.arange(DAY, len(errors) - horizon, 12)
                    at = at[np.isfinite(errors[at, column])]
                    off.append(np.square(errors[at, column]))
                    score.append(departed.score.numpy()[at])
            squares = np.concatenate(off)[np.argsort(np.concatenate(score), kind="stable")]
            by_share.append([np.sqrt(squares[: max(1, int(c * len(squares)))].mean()) for c in _COVERED])
        curve = np.mean(by_share, axis=0)
        yield Row(
            id=f"glucose.trust.risk.m{minutes}",
            value=float(curve[_COVERED.index(0.5)]),
            n=len(squares),
            seeds=seeds,
            unit="mg/dL",
            baselines={f"covered_{c:g}": float(x) for c, x in zip(_COVERED, curve, strict=True)}
            | {"falls": float((np.diff(curve) < 0).mean())},
        )


def controlled(options: Options) -> Iterator[Row]:
    """Time in range of patients to whom an event happens on the second of three days, under a planner that watches;
    beside it the same without watching and the usual treatment, and their times below 54 mg/dL.
    """
    model, days = made(SEEDS[0], options)["randomised"].model, 2 if options.quick else 3
    eye = watch(SEEDS[0], options)
    doctors: dict[str, Callable[[Ward], Treats]] = {
        "model": functools.partial(Planned, model=model, watch=eye, level=LEVEL),
        "unwatched": functools.partial(Planned, model=model),
        "usual": Usual,
    }
    for event in EVENTS:
        who = CHILDREN if event == "children" else tuple(p for p in HELD_OUT for _ in range(2))
        care = Care(patients=tuple(dict.fromkeys(who)), untold=0.1, missed=0.0, late=0.0)
        found, handed = {}, 0.0
        for name, doctor in doctors.items():
            ward = care.ward(who, [np.random.default_rng([_LIVES, i]) for i in range(len(who))], days * DAY)
            happens = Happens(event, np.full(len(who), DAY + DAY // 4))
            held: list[Treats] = []

            def treats(w: Ward, doctor: Callable[[Ward], Treats] = doctor, held: list[Treats] = held) -> Treats:
                held.append(doctor(w))
                return held[0]

            glucose = treat(ward, treats, days * DAY, happens.before)
            found[name] = shares(glucose if event == "children" else glucose[:, DAY + DAY // 4 :])
            if name == "model" and isinstance(held[0], Planned):
                handed = float(held[0].handed.mean())
        beside = {f"{n}_{what}": x[what] for n, x in found.items() for what in ("tir", "below_54")}
        del beside["model_tir"]
        yield Row(
            id=f"glucose.trust.control.{event}",
            value=found["model"]["tir"],
            n=len(who),
            seeds=SEEDS[:1],
            unit="share",
            baselines={**beside, "handed_over": handed},
        )


def _area(plain: Array, event: Array) -> float:
    return float(roc_auc_score(np.repeat([0, 1], [len(plain), len(event)]), np.concatenate([plain, event])))


def _spread(scores: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    """A bootstrap interval over episodes of the mean over seeds: scores of ordinary ones and of those with an event."""
    plain, event = (np.stack(each, axis=1) for each in zip(*scores, strict=True))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        one, two = (x[rng.integers(len(x), size=len(x))] for x in (plain, event))
        drawn.append(np.mean([_area(one[:, k], two[:, k]) for k in range(one.shape[1])]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


TRUST = {
    **{f"glucose.trust.{event}": functools.partial(event_rows, event) for event in EVENTS},
    "glucose.trust.risk": risk,
    "glucose.trust.control": controlled,
}
