"""Glucose of virtual patients: forecasts, and what another treatment would have done, beside plain regressions.

Models learn from logged care of 14 patients, 400 days of each, and are asked about 6 others. The baselines get no less
than the model: measurements of the last day, what is given from now on and what meals are told of.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from benchmarks.result import Options, Row, run
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.evaluation.intervals import bootstrap
from foretell.evaluation.treatment import PID, Nothing, Planned, Treats, Usual, groups, treat
from foretell.evaluation.what_if import changes
from foretell.model.checkpoint import load
from foretell.model.readout import Grounded
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.spec import Episode
from foretell.training import TrainConfig, train
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit
from foretell.trust.calibration import see
from foretell.trust.intervals import Intervals, LiveIntervals, ahead, errors_ahead, fit_intervals
from foretell.trust.overlap import LEAST, Overlap, fit_overlap
from foretell.worlds.glucose import HELD_OUT, TRAINING, Trial, Ward, logged, shares, trials
from foretell.worlds.glucose import Options as Care
from foretell.worlds.glucose.behaviour import SPEC
from foretell.worlds.glucose.risk import LOWEST
from foretell.worlds.glucose.trials import AHEAD, Kind
from foretell.worlds.glucose.ward import DAY, MINUTES

Array = NDArray[np.float64]
LOGS = ("randomised", "confounded")
SEEDS = (0, 1, 2, 3, 4)
HELD, ASKED = 80_001, 80_002
"""Seeds of the days that forecasts and trials are about; those of training are 0 to 4."""
MINUTES_AHEAD = (30, 60, 120, 240)
EPISODES = 2800
"""Of two days each, to learn from."""
SETTINGS = TrainConfig(
    model=ModelConfig(latent=32, block=6, look=DAY, grounded=("glucose",), features=96, width=192),
    objective=ObjectiveConfig(prediction=0.1, sigreg=0.1, slices=32, inverse=0.0, spread="state", settle=0, ramp=1),
    steps=8000,
    batch=64,
    length=9,
    weight_decay=0.01,
    gains=("insulin+basal+bolus:0.3", "meal+carbohydrates:0.2", "glucose:0.2@110"),
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


def _readings(episode: Episode) -> Tensor:
    """(T, 1) mg/dL, NaN where there is no reading."""
    values = np.where(measured(episode), episode.observations["glucose"][:, 0], np.nan)
    return torch.from_numpy(values.astype(np.float32))[:, None]


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
        readings = _readings(episode)[:, 0].double().numpy()
        for now in range(DAY, len(episode) - AHEAD, every):
            plan = np.asarray(episode.actions[now : now + AHEAD], np.float64)
            found.append(Moment(episode.until(now), plan, readings[now : now + AHEAD + 1]))
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


def forecasts(options: Options) -> Iterator[Row]:
    """Root mean squared error against readings of held-out patients, by minutes ahead; models of randomised logs."""
    episodes = list(logged(Care(logs="randomised", patients=HELD_OUT), 12 if options.quick else 240, seed=HELD))
    asked = moments(episodes, every=24)
    truth = np.stack([m.after for m in asked])
    who = np.array([m.past.group for m in asked])
    seeds = SEEDS[:1] if options.quick else SEEDS
    squares: dict[str, dict[int, list[Array]]] = {}
    for seed in seeds:
        found = made(seed, options)["randomised"]
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


def coverage(options: Options) -> Iterator[Row]:
    """Share of readings inside 90% intervals, all horizons together, on the second to fourth day of held-out patients.

    Widths come from other days of the training patients, of adults for adults, of adolescents for adolescents, and
    follow what turns out (adaptive conformal inference); beside them, without following.
    """
    seeds = SEEDS[:1] if options.quick else SEEDS
    horizons = [m // MINUTES for m in MINUTES_AHEAD]
    known = list(logged(Care(logs="randomised"), 14 if options.quick else 112, seed=HELD + 1))
    held = list(logged(Care(logs="randomised", days=4, patients=HELD_OUT), 6 if options.quick else 36, seed=HELD + 2))
    inside: dict[str, list[Array]] = {}
    for seed in seeds:
        model = made(seed, options)["randomised"].model
        reads = Grounded(model, "glucose")
        seen = [see(model, e) for e in known]
        errors = [
            errors_ahead(model, reads, z.latents, z.actions, _readings(e), horizons)
            for z, e in zip(seen, known, strict=True)
        ]
        kinds = groups([e.group for e in known])
        around = {
            k: fit_intervals(reads, horizons, [x for x, one in zip(errors, kinds, strict=True) if one == k], steps=60)
            for k in set(kinds)
        }
        for episode, kind in zip(held, groups([e.group for e in held]), strict=True):
            found = see(model, episode)
            said = ahead(model, reads, found.latents, found.actions, horizons)
            for name, rate in (("model", 0.02), ("fixed", 1e-9)):
                inside.setdefault(name, []).append(_inside(said, _readings(episode), around[kind], rate))
    who = groups([e.group for e in held])
    for group in ("all", *sorted(set(who))):
        chosen = np.ones(len(who), np.bool_) if group == "all" else who == group
        # (seeds, episodes, horizons)
        told = {n: np.reshape(each, (len(seeds), len(held), -1))[:, chosen] for n, each in inside.items()}
        patients = _by(np.array([e.group for e in held])[chosen], told["model"].mean((0, 2)))
        yield Row(
            id=f"glucose.coverage_90.{group}",
            value=float(told["model"].mean()),
            interval=_interval(patients, lambda x: float(x.mean())),
            n=int(chosen.sum()),
            seeds=seeds,
            unit="share",
            baselines={f"m{m}": float(told["model"][..., k].mean()) for k, m in enumerate(MINUTES_AHEAD)}
            | {"not_adaptive": float(told["fixed"].mean())},
        )


def _inside(said: Tensor, readings: Tensor, around: Intervals, rate: float) -> Array:
    """(H,) shares of readings (T, 1) inside intervals around forecasts (T, H, 1), from the second day on."""
    live = LiveIntervals(around, level=0.9, rate=rate)
    ends = [live.step(one, now) for one, now in zip(said, readings, strict=True)]
    low, high = (torch.stack(each)[:, :, 0] for each in zip(*ends, strict=True))
    shares = []
    for k, horizon in enumerate(around.horizons):
        then, before = readings[DAY + horizon :, 0], slice(DAY, len(readings) - horizon)
        known = ~then.isnan() & ~low[before, k].isnan()
        shares.append((((then >= low[before, k]) & (then <= high[before, k]))[known]).double().mean())
    return np.array(shares)


def what_if(logs: str, options: Options) -> Iterator[Row]:
    """Effects of other plans on held-out patients, from models of these logs: their errors' root mean square over the
    true effects' (1: as good as 'no effect'), and how often the sign is right where the effect is more than 10 mg/dL.

    Inside: other basal rates, and boluses forgotten or late, half each. Outside, what no logs have: other doses for
    what was told, and boluses without a meal. These are of all questions, as if none were refused; beside them, those
    that are answered, and how many of each kind are refused as the logs cannot tell.
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
        answered = []
        for seed in seeds:
            found = made(seed, options)[logs]
            answered.append(np.array([_answered(found.overlap, t) for t in asked]))
            tell = {"model": functools.partial(imagined, found.model), **found.baselines}
            for name, says in tell.items():
                one, other = (says(pasts, plans) for plans in ([t.plan for t in asked], [t.other for t in asked]))
                for minutes in MINUTES_AHEAD[1:]:
                    effects.setdefault(name, {}).setdefault(minutes, []).append(other[minutes] - one[minutes])
        answers = np.array(answered)
        for k in each:
            refused = 1 - answers[:, kind == k].mean(0)
            yield Row(
                id=f"glucose.what_if.{logs}{where}.refused.{k}",
                value=float(refused.mean()),
                interval=_interval(_by(who[kind == k], refused), lambda x: float(x.mean())),
                n=int((kind == k).sum()),
                seeds=seeds,
                unit="share",
            )
        for minutes in MINUTES_AHEAD[1:]:
            true = np.array([t.effect[minutes // MINUTES] for t in asked])
            big = np.abs(true) > 10
            told = {name: np.array(said[minutes]) for name, said in effects.items()}
            # (questions, 2): squared errors over seeds, squared effects.
            squares = {n: np.stack([np.square(x - true).mean(0), np.square(true)], axis=1) for n, x in told.items()}
            beside = {n: _ratio(x) for n, x in squares.items() if n != "model"}
            beside |= {f"model_{k}": _ratio(squares["model"][kind == k]) for k in each}
            if answers.any():
                off = np.square(told["model"] - true)[answers]
                beside["model_answered"] = _ratio(
                    np.stack([off, np.square(true)[None].repeat(len(seeds), 0)[answers]], 1)
                )
            yield Row(
                id=f"glucose.what_if.{logs}{where}.effect_ratio.m{minutes}",
                value=_ratio(squares["model"]),
                interval=_interval(_by(who, squares["model"]), _ratio),
                n=len(asked),
                seeds=seeds,
                unit="ratio",
                baselines=beside | {"effect_rms": float(np.sqrt(np.square(true).mean()))},
            )
            if big.any():
                signs = {n: (np.sign(x) == np.sign(true)).mean(0)[big] for n, x in told.items()}
                yield Row(
                    id=f"glucose.what_if.{logs}{where}.sign.m{minutes}",
                    value=float(signs["model"].mean()),
                    interval=_interval(_by(who[big], signs["model"]), lambda x: float(x.mean())),
                    n=int(big.sum()),
                    seeds=seeds,
                    unit="share",
                    baselines={n: float(x.mean()) for n, x in signs.items() if n != "model"},
                )


def _answered(overlap: Overlap, trial: Trial) -> bool:
    """Whether the logs can tell."""
    return bool((changes(overlap, trial.history, trial.plan, trial.other)[1] >= LEAST).all())


def _lives(patients: Sequence[str], each: int, days: int, seed: int) -> tuple[list[str], Callable[[], Ward]]:
    """Patients, each with several lives: meals told of with errors, a tenth of them not at all; nobody forgets boluses
    for the others.
    """
    who = [p for p in patients for _ in range(each)]
    care = Care(patients=tuple(patients), untold=0.1, missed=0.0, late=0.0)
    return who, lambda: care.ward(who, [np.random.default_rng([seed, i]) for i in range(len(who))], days * DAY)


@functools.cache
def tuned_pid(quick: bool) -> dict[str, float]:
    """The gains of most time in range for training patients, of those with no more time below 70 than as usual."""
    _, ward = _lives(TRAINING, 1, 1 if quick else 5, HELD + 3)
    steps = (1 if quick else 5) * DAY
    usual = shares(treat(ward(), Usual, steps))
    best, gains = usual["tir"], {"proportional": 0.0, "integral": 0.0, "derivative": 0.0, "suspend": 80.0}
    for p, i, d in itertools.product((0.0, 0.002, 0.005, 0.01), (0.0, 0.0005), (0.0, 0.25, 0.5)):
        tried = {"proportional": p, "integral": i, "derivative": d, "suspend": 90.0}
        found = shares(treat(ward(), functools.partial(PID, **tried), steps))
        if found["tir"] > best and found["below_70"] <= usual["below_70"]:
            best, gains = found["tir"], tried
    return gains


def control(options: Options) -> Iterator[Row]:
    """Ten days of held-out patients under a planner on the model (settings chosen on training patients), beside the
    usual treatment, a PID controller of the basal rate with the same boluses, and no insulin.
    """
    seeds = SEEDS[:1] if options.quick else SEEDS
    days, each = (1, 1) if options.quick else (10, 4)
    who, ward = _lives(HELD_OUT, each, days, HELD + 4)
    doctors: dict[str, list[Callable[[Ward], Treats]]] = {
        "model": [functools.partial(Planned, model=made(seed, options)["randomised"].model) for seed in seeds],
        "usual": [Usual],
        "pid": [functools.partial(PID, **tuned_pid(options.quick))],
        "nothing": [Nothing],
    }
    glucose = {name: np.stack([treat(ward(), d, days * DAY) for d in every]) for name, every in doctors.items()}
    kinds = groups(who)
    for group in sorted(set(kinds)):
        chosen = kinds == group
        patients = np.array(who)[chosen]
        for what in ("tir", "below_70", "below_54", "above_180", "risk"):
            # Of each life, over seeds.
            found = {n: np.array([shares(g[:, i])[what] for i in np.flatnonzero(chosen)]) for n, g in glucose.items()}
            beside = {n: float(x.mean()) for n, x in found.items() if n != "model"}
            if what == "below_54":
                low = (glucose["model"][:, chosen] < LOWEST).sum(2) * MINUTES / 60
                beside["model_most_hours_of_a_life"] = float(low.max())
            yield Row(
                id=f"glucose.control.{group}.{what}",
                value=float(found["model"].mean()),
                interval=_interval(_by(patients, found["model"]), lambda x: float(x.mean())),
                n=int(chosen.sum()) * days,
                seeds=seeds,
                unit="" if what == "risk" else "share",
                baselines=beside,
            )


def seconds(options: Options) -> Iterator[Row]:
    """Recording, training and fitting, both kinds of logs, of one seed."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    taken = [max(m.seconds for m in made(seed, options).values()) for seed in seeds]
    yield Row(id="glucose.seconds", value=float(np.mean(taken)), n=len(seeds), seeds=seeds, unit="s")


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
    "glucose.coverage_90": coverage,
    **{f"glucose.what_if.{logs}": functools.partial(what_if, logs) for logs in LOGS},
    "glucose.control": control,
    "glucose.seconds": seconds,
}


if __name__ == "__main__":
    run("glucose", MEASURES)
