"""What the measures of glucose share: models and plain regressions learned from the same logs, once for each seed.

Models learn from logged care of 14 patients, 400 days of each, and are asked about 6 others. The baselines get no less
than the model: measurements of the last day, what is given from now on and what meals are told of.
"""

from __future__ import annotations

import functools
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.result import Options
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.evaluation.glucose_answers import MINUTES_AHEAD, readings
from foretell.evaluation.glucose_demo import TRAINING_SETTINGS
from foretell.evaluation.intervals import bootstrap
from foretell.model.checkpoint import load
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.training import train
from foretell.trust.overlap import Overlap, fit_overlap
from foretell.worlds.glucose import Options as Care
from foretell.worlds.glucose import logged
from foretell.worlds.glucose.behaviour import SPEC
from foretell.worlds.glucose.trials import AHEAD
from foretell.worlds.glucose.ward import DAY, MINUTES

Array = NDArray[np.float64]
LOGS = ("randomised", "confounded")
STARTED = time.perf_counter()
SEEDS = (0, 1, 2, 3, 4)
HELD, ASKED = 80_001, 80_002
"""Seeds of the days that forecasts and trials are about; those of training are 0 to 4."""
EPISODES = 2800
"""Of two days each, to learn from."""
SETTINGS = replace(TRAINING_SETTINGS, steps=9000)


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
    """A model, what its logs varied, the regressions fitted on the same logs, and seconds that all of it took."""

    model: WorldModel
    overlap: Overlap
    baselines: Mapping[str, Baseline]
    seconds: float


class Baseline:
    """One regression per horizon, of how far glucose moves from the last reading."""

    def __init__(self, kind: str, moments: Sequence[Moment]) -> None:
        self.fitted = {}
        make = {
            "ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
            "boosting": lambda: HistGradientBoostingRegressor(random_state=0),
        }[kind]
        x = np.stack([features(m.past, m.plan) for m in moments])
        now = np.array([last_reading(m.past) for m in moments])
        for minutes in MINUTES_AHEAD:
            moved = np.array([m.after[minutes // MINUTES] for m in moments]) - now
            there = np.isfinite(moved)
            self.fitted[minutes] = make().fit(x[there], moved[there])

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
        glucose = readings(episode)[:, 0].double().numpy()
        for now in range(DAY, len(episode) - AHEAD, every):
            plan = np.asarray(episode.actions[now : now + AHEAD], np.float64)
            found.append(Moment(episode.until(now), plan, glucose[now : now + AHEAD + 1]))
    return found


@functools.cache
def made(seed: int, options: Options) -> dict[str, Made]:
    """By kind of logs: record logged care, train on it, fit the regressions; both kinds at once, on a core each."""
    confounded = options.wants("glucose.what_if.confounded") or options.wants("glucose.seconds")
    asked = LOGS if confounded else ("randomised",)
    with tempfile.TemporaryDirectory() as kept, ProcessPoolExecutor(len(asked), get_context("spawn")) as pool:
        folders = [Path(kept) / logs for logs in asked]
        taken = list(pool.map(_made, asked, [seed] * len(asked), [options.quick] * len(asked), folders))
        found = {}
        for logs, folder, seconds in zip(asked, folders, taken, strict=True):
            model = load(folder / "run").model.eval()
            baselines = pickle.loads((folder / "baselines").read_bytes())
            found[logs] = Made(model, pickle.loads((folder / "overlap").read_bytes()), baselines, seconds)
    return found


def _made(logs: str, seed: int, quick: bool, folder: Path) -> float:
    """In a process of its own: seconds that it took."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    folder.mkdir()
    care = Care(logs=logs)  # type: ignore[arg-type]
    config = replace(SETTINGS, seed=seed, **({"steps": 20} if quick else {}))
    path = folder / "care"
    with EpisodeWriter(path, SPEC) as writer:
        for episode in logged(care, 28 if quick else EPISODES, seed=seed):
            writer.append(episode)
    store = EpisodeStore(path)
    train(store, folder / "run", config)
    # A quarter of the episodes: more rows change the regressions' figures by less than their intervals.
    episodes = [store.read(i) for i in range(0, len(store), 1 if quick else 4)]
    some = moments(episodes, every=48 if quick else 6)
    baselines = {
        "ridge": Baseline("ridge", some),
        "boosting": Baseline("boosting", some),
    }
    (folder / "baselines").write_bytes(pickle.dumps(baselines))
    (folder / "overlap").write_bytes(pickle.dumps(fit_overlap(SPEC, episodes[:140], seed=seed)))
    return time.perf_counter() - started


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


def by(who: NDArray[np.str_], values: Array) -> Array:
    """The mean over each patient of values (n, ...), NaN left out."""
    return np.stack([np.nanmean(values[who == name], axis=0) for name in np.unique(who)])


def root(squares: Array) -> float:
    return float(np.sqrt(squares.mean()))


def ratio(squares: Array) -> float:
    """Root of the mean squared error over the mean squared effect, (n, 2)."""
    return float(np.sqrt(squares[:, 0].mean() / squares[:, 1].mean()))


def interval(by_patient: Array, of: Callable[[Array], float]) -> tuple[float, float]:
    """A bootstrap interval over patients."""
    low, high = bootstrap(
        by_patient, np.random.default_rng(0), statistic=lambda drawn: np.array([of(each) for each in drawn])
    )
    return float(low), float(high)
