"""Glucose of virtual patients: forecasts, and what another treatment would have done, beside plain regressions.

Models learn from logged care of 14 patients and are asked about 6 others. The baselines get no less than the model:
measurements of the last day, and what is given from now on. The model's settings have not been chosen yet.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.result import Options, Row, run
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.evaluation.intervals import bootstrap
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.spec import Episode
from foretell.training import TrainConfig, train
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit
from foretell.worlds.glucose import HELD_OUT, Trial, logged, trials
from foretell.worlds.glucose import Options as Care
from foretell.worlds.glucose.behaviour import SPEC
from foretell.worlds.glucose.trials import AHEAD, Kind
from foretell.worlds.glucose.ward import DAY, MINUTES

Array = NDArray[np.float64]
LOGS = ("randomised", "confounded")
SEEDS = (0, 1, 2, 3, 4)
HELD, ASKED = 80_001, 80_002
"""Seeds of the days that forecasts and trials are about; those of training are 0 to 4."""
MINUTES_AHEAD = (30, 60, 120, 240)
TRAINING = TrainConfig(
    model=ModelConfig(latent=32, block=3, look=72, grounded=("glucose",), features=128, width=256),
    objective=ObjectiveConfig(prediction=0.1, sigreg=0.1, inverse=0.0, spread="state", settle=0, ramp=1),
    steps=2000,
    batch=128,
    length=17,
    holdout=0.0,
    refine=Refine(steps=0),
    distance=DistanceFit(steps=0),
    precision="float32",
    device="cpu",
)


@dataclass(frozen=True)
class Moment:
    """One patient now. past: what was seen until now. plan: (48, 3) what is given and told of from now on.

    after: (49,) readings, NaN where there is none.
    """

    past: Episode
    plan: Array
    after: Array


@dataclass(frozen=True)
class Made:
    """A model, its training episodes and the regressions fitted on the same."""

    model: WorldModel
    baselines: Mapping[str, Baseline]


class Baseline:
    """One regression per horizon, of how far glucose moves from the last reading."""

    def __init__(self, make: Callable[[], object], moments: Sequence[Moment]) -> None:
        self.fitted = {}
        x = np.stack([features(m.past, m.plan) for m in moments])
        now = np.array([last_reading(m.past) for m in moments])
        for minutes in MINUTES_AHEAD:
            moved = np.array([m.after[minutes // MINUTES] for m in moments]) - now
            there = np.isfinite(moved)
            self.fitted[minutes] = make().fit(x[there], moved[there])  # type: ignore[attr-defined]

    def __call__(self, pasts: Sequence[Episode], plans: Sequence[Array]) -> dict[int, Array]:
        """mg/dL (n,) by minutes ahead."""
        x = np.stack([features(past, plan) for past, plan in zip(pasts, plans, strict=True)])
        now = np.array([last_reading(past) for past in pasts])
        return {minutes: now + found.predict(x) for minutes, found in self.fitted.items()}


def last_reading(past: Episode) -> float:
    """mg/dL of the latest reading."""
    return float(past.observations["glucose"][measured(past), 0][-1])


def measured(episode: Episode) -> NDArray[np.bool_]:
    """(T,) where there is a reading."""
    mask = episode.valid.get("glucose", np.ones(len(episode), np.bool_))
    return mask.reshape(len(episode), -1)[:, 0]


def features(past: Episode, plan: Array) -> Array:
    """What a regression sees: an hour of readings, carbohydrates and insulin of the last day by ever longer stretches,
    the time of day, and insulin and carbohydrates to come by half hours.
    """
    seen = past.observations
    glucose, there = seen["glucose"][-13:, 0], measured(past)[-13:]
    known = np.flatnonzero(there) if there.any() else np.array([len(there) - 1])
    readings = np.interp(np.arange(len(glucose)), known, glucose[known])
    stretches = [
        seen[name][-last:, 0].sum() for name in ("insulin", "meal") for last in (3, 6, 12, 24, 36, 48, 72, 144, 288)
    ]
    insulin, meals = (x.reshape(-1, 6).sum(1) for x in (plan[:, 0] * MINUTES / 60 + plan[:, 1], plan[:, 2]))
    return np.concatenate([readings, np.diff(readings), stretches, seen["clock"][-1], insulin, meals])


def moments(episodes: Sequence[Episode], every: int) -> list[Moment]:
    """Of the second day of each episode, a moment at every so many steps."""
    found = []
    for episode in episodes:
        readings = np.where(measured(episode), episode.observations["glucose"][:, 0], np.nan)
        for now in range(DAY, len(episode) - AHEAD, every):
            plan = np.asarray(episode.actions[now : now + AHEAD], np.float64)
            found.append(Moment(episode.until(now), plan, readings[now : now + AHEAD + 1].astype(np.float64)))
    return found


@functools.cache
def made(logs: str, seed: int, options: Options) -> Made:
    """Record logged care, train on it, and fit the regressions."""
    care = Care(logs=logs)  # type: ignore[arg-type]
    config = replace(TRAINING, seed=seed, **({"steps": 20} if options.quick else {}))
    with tempfile.TemporaryDirectory() as kept:
        path = Path(kept) / "care"
        with EpisodeWriter(path, SPEC) as writer:
            for episode in logged(care, 28 if options.quick else 700, seed=seed):
                writer.append(episode)
        store = EpisodeStore(path)
        model = train(store, Path(kept) / "run", config).eval()
        some = moments([store.read(i) for i in range(len(store))], every=48 if options.quick else 6)
    return Made(
        model,
        {
            "ridge": Baseline(lambda: make_pipeline(StandardScaler(), Ridge()), some),
            "boosting": Baseline(lambda: HistGradientBoostingRegressor(random_state=0), some),
        },
    )


@torch.no_grad()
def imagined(model: WorldModel, pasts: Sequence[Episode], plans: Sequence[Array]) -> dict[int, Array]:
    """mg/dL (n,) by minutes ahead that the model expects of plans (48, 3)."""
    look, block = model.config.look, model.config.block
    starts = []
    for past in pasts:
        values = {c.name: torch.from_numpy(past.observations[c.name][-look:])[None] for c in SPEC.observations}
        valid = {n: torch.from_numpy(x[-look:])[None] for n, x in past.valid.items()}
        seen, there = model.looking_back(values, valid)
        starts.append(model.encode(*({n: x[:, -1:] for n, x in each.items()} for each in (seen, there))))
    now = torch.cat(starts)
    plan = torch.from_numpy(np.stack(plans)).float().view(len(pasts), 1, AHEAD // block, -1)
    path: Tensor = model.rollout(now, now.new_zeros(len(now), 0, plan.shape[-1]), plan)[:, 0]
    found = model.read(path, "glucose")[..., 0].double().numpy()
    return {minutes: found[:, minutes // MINUTES // block - 1] for minutes in MINUTES_AHEAD}


def forecasts(options: Options) -> Iterator[Row]:
    """Root mean squared error against readings of held-out patients, by minutes ahead; models of randomised logs."""
    episodes = list(logged(Care(logs="randomised", patients=HELD_OUT), 12 if options.quick else 240, seed=HELD))
    asked = moments(episodes, every=24)
    truth = np.stack([m.after for m in asked])
    who = np.array([m.past.group for m in asked])
    seeds = SEEDS[:1] if options.quick else SEEDS
    squares: dict[str, dict[int, list[Array]]] = {}
    for seed in seeds:
        found = made("randomised", seed, options)
        pasts, plans = [m.past for m in asked], [m.plan for m in asked]
        said = {"model": imagined(found.model, pasts, plans)}
        said |= {name: baseline(pasts, plans) for name, baseline in found.baselines.items()}
        said["persistence"] = dict.fromkeys(MINUTES_AHEAD, np.array([last_reading(p) for p in pasts]))
        for name, each in said.items():
            for minutes, values in each.items():
                off = np.square(values - truth[:, minutes // MINUTES])
                squares.setdefault(name, {}).setdefault(minutes, []).append(off)
    for minutes in MINUTES_AHEAD:
        by_patient = {name: _by(who, np.mean(each[minutes], axis=0)) for name, each in squares.items()}
        yield Row(
            id=f"glucose.forecast.rmse.m{minutes}",
            value=_root(by_patient["model"]),
            interval=_interval(by_patient["model"], _root),
            n=len(asked),
            seeds=seeds,
            unit="mg/dL",
            baselines={n: _root(each) for n, each in by_patient.items() if n != "model"},
        )


def what_if(logs: str, options: Options) -> Iterator[Row]:
    """Effects of other plans on held-out patients, from models of these logs: their errors' root mean square over the
    true effects' (1: as good as 'no effect'), and how often the sign is right where the effect is more than 10 mg/dL.

    Inside: other basal rates, and boluses forgotten or late, half each. Outside, what no logs have: other doses for
    what was told, and boluses without a meal.
    """
    seeds = SEEDS[:1] if options.quick else SEEDS
    care, count = Care(logs=logs, patients=HELD_OUT), 24 if options.quick else 480  # type: ignore[arg-type]
    kinds: dict[str, tuple[Kind, ...]] = {"": ("basal", "bolus"), ".outside": ("dose", "extra")}
    for where, each in kinds.items():
        asked: list[Trial] = [t for k in each for t in trials(care, count, k, seed=ASKED)]
        kind = np.repeat(each, count)
        who = np.array([t.history.group for t in asked])
        pasts = [t.history for t in asked]
        effects: dict[str, dict[int, list[Array]]] = {}
        for seed in seeds:
            found = made(logs, seed, options)
            tell = {"model": functools.partial(imagined, found.model), **found.baselines}
            for name, says in tell.items():
                one, other = (says(pasts, plans) for plans in ([t.plan for t in asked], [t.other for t in asked]))
                for minutes in MINUTES_AHEAD[1:]:
                    effects.setdefault(name, {}).setdefault(minutes, []).append(other[minutes] - one[minutes])
        for minutes in MINUTES_AHEAD[1:]:
            true = np.array([t.effect[minutes // MINUTES] for t in asked])
            big = np.abs(true) > 10
            ratios, signs = {}, {}
            for name, said in effects.items():
                told = np.array(said[minutes])
                squares = np.stack([np.square(told - true).mean(0), np.square(true)], axis=1)
                ratios[name] = squares
                signs[name] = (np.sign(told) == np.sign(true)).mean(0)[big]
            by_patient = _by(who, ratios["model"])
            beside = {n: _ratio(r) for n, r in ratios.items() if n != "model"}
            beside |= {f"model_{k}": _ratio(ratios["model"][kind == k]) for k in each if len(each) > 1}
            yield Row(
                id=f"glucose.what_if.{logs}{where}.effect_ratio.m{minutes}",
                value=_ratio(ratios["model"]),
                interval=_interval(by_patient, _ratio),
                n=len(asked),
                seeds=seeds,
                unit="ratio",
                baselines=beside | {"effect_rms": float(np.sqrt(np.square(true).mean()))},
            )
            if big.any():
                yield Row(
                    id=f"glucose.what_if.{logs}{where}.sign.m{minutes}",
                    value=float(signs["model"].mean()),
                    interval=_interval(_by(who[big], signs["model"]), lambda x: float(x.mean())),
                    n=int(big.sum()),
                    seeds=seeds,
                    unit="share",
                    baselines={n: float(x.mean()) for n, x in signs.items() if n != "model"},
                )


def _by(who: NDArray[np.str_], values: Array) -> Array:
    """The mean over each patient of values (n, ...), NaN left out."""
    return np.stack([np.nanmean(values[who == name], axis=0) for name in np.unique(who)])


def _root(squares: Array) -> float:
    return float(np.sqrt(squares.mean()))


def _ratio(squares: Array) -> float:
    """Root of the mean squared error over the mean squared effect, (n, 2)."""
    return float(np.sqrt(squares[:, 0].mean() / squares[:, 1].mean()))


def _interval(by_patient: Array, of: Callable[[Array], float]) -> tuple[float, float]:
    """A bootstrap interval over patients."""
    low, high = bootstrap(
        by_patient, np.random.default_rng(0), statistic=lambda drawn: np.array([of(each) for each in drawn])
    )
    return float(low), float(high)


MEASURES = {
    "glucose.forecast": forecasts,
    **{f"glucose.what_if.{logs}": functools.partial(what_if, logs) for logs in LOGS},
}


if __name__ == "__main__":
    run("glucose", MEASURES)
