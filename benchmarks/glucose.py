"""Glucose of virtual patients: forecasts, what another treatment would have done, control, and when not to trust it."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.glucose_made import (
    ASKED,
    HELD,
    LOGS,
    MINUTES_AHEAD,
    SEEDS,
    STARTED,
    Array,
    by,
    imagined,
    interval,
    last_reading,
    made,
    moments,
    ratio,
    readings,
    root,
)
from benchmarks.glucose_trust import TRUST
from benchmarks.remifentanil import MEASURES as REMIFENTANIL
from benchmarks.result import Options, Row, run
from foretell.evaluation.treatment import PID, Nothing, Planned, Treats, Usual, groups, treat
from foretell.evaluation.what_if import changes
from foretell.model.readout import Grounded
from foretell.trust.calibration import see
from foretell.trust.intervals import Intervals, LiveIntervals, ahead, errors_ahead, fit_intervals
from foretell.trust.overlap import LEAST, Overlap
from foretell.worlds.glucose import HELD_OUT, TRAINING, Simulator, Trial, Ward, logged, patients, shares, trials
from foretell.worlds.glucose import Options as Care
from foretell.worlds.glucose.risk import LOWEST
from foretell.worlds.glucose.trials import Kind
from foretell.worlds.glucose.ward import DAY, MINUTES


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
        by_patient = {name: by(who, np.mean(each[minutes], axis=0)) for name, each in squares.items()}
        yield Row(
            id=f"glucose.forecast.rmse.m{minutes}",
            value=root(by_patient["model"]),
            interval=interval(by_patient["model"], root),
            n=len(asked),
            seeds=seeds,
            unit="mg/dL",
            baselines={n: root(each) for n, each in by_patient.items() if n != "model"},
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
    endless: list[float] = []
    for seed in seeds:
        model = made(seed, options)["randomised"].model
        reads = Grounded(model, "glucose")
        seen = [see(model, e) for e in known]
        errors = [
            errors_ahead(model, reads, z.latents, z.actions, readings(e), horizons)
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
            # Faster, and a quarter of the intervals would have no ends.
            for name, rate in (("model", 0.005), ("fixed", 1e-9)):
                held_in, without = _inside(said, readings(episode), around[kind], rate)
                inside.setdefault(name, []).append(held_in)
                if name == "model":
                    endless.append(without)
    who = groups([e.group for e in held])
    for group in ("all", *sorted(set(who))):
        chosen = np.ones(len(who), np.bool_) if group == "all" else who == group
        # (seeds, episodes, horizons)
        told = {n: np.reshape(each, (len(seeds), len(held), -1))[:, chosen] for n, each in inside.items()}
        patients = by(np.array([e.group for e in held])[chosen], told["model"].mean((0, 2)))
        without = np.reshape(endless, (len(seeds), len(held)))[:, chosen].mean()
        yield Row(
            id=f"glucose.coverage_90.{group}",
            value=float(told["model"].mean()),
            interval=interval(patients, lambda x: float(x.mean())),
            n=int(chosen.sum()),
            seeds=seeds,
            unit="share",
            baselines={f"m{m}": float(told["model"][..., k].mean()) for k, m in enumerate(MINUTES_AHEAD)}
            | {"not_adaptive": float(told["fixed"].mean()), "without_ends": float(without)},
        )


def _inside(said: Tensor, readings: Tensor, around: Intervals, rate: float) -> tuple[Array, float]:
    """(H,) shares of readings (T, 1) inside intervals around forecasts (T, H, 1), from the second day on, and the share
    of intervals that hold whatever comes.
    """
    live = LiveIntervals(around, level=0.9, rate=rate)
    ends = [live.step(one, now) for one, now in zip(said, readings, strict=True)]
    low, high = (torch.stack(each)[:, :, 0] for each in zip(*ends, strict=True))
    shares = []
    for k, horizon in enumerate(around.horizons):
        then, before = readings[DAY + horizon :, 0], slice(DAY, len(readings) - horizon)
        known = ~then.isnan() & ~low[before, k].isnan()
        shares.append((((then >= low[before, k]) & (then <= high[before, k]))[known]).double().mean())
    return np.array(shares), float(low[DAY:].isinf().double().mean())


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
                interval=interval(by(who[kind == k], refused), lambda x: float(x.mean())),
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
            beside = {n: ratio(x) for n, x in squares.items() if n != "model"}
            beside |= {f"model_{k}": ratio(squares["model"][kind == k]) for k in each}
            if answers.any():
                off = np.square(told["model"] - true)[answers]
                beside["model_answered"] = ratio(
                    np.stack([off, np.square(true)[None].repeat(len(seeds), 0)[answers]], 1)
                )
            yield Row(
                id=f"glucose.what_if.{logs}{where}.effect_ratio.m{minutes}",
                value=ratio(squares["model"]),
                interval=interval(by(who, squares["model"]), ratio),
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
                    interval=interval(by(who[big], signs["model"]), lambda x: float(x.mean())),
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
                interval=interval(by(patients, found["model"]), lambda x: float(x.mean())),
                n=int(chosen.sum()) * days,
                seeds=seeds,
                unit="" if what == "risk" else "share",
                baselines=beside,
            )


def simulator(options: Options) -> Iterator[Row]:
    """Patient-days a second, one thread, the best of three: meals, insulin and glucose alone; beside it logged care,
    sensor, pump and treatment included.
    """
    count = 28 if options.quick else 512
    who = patients([TRAINING[i % len(TRAINING)] for i in range(count)])

    def live() -> None:
        lives = Simulator(who)
        for minute in range(24 * 60):
            if minute % 360 == 180:
                lives.eat(np.full(count, 60.0))
            lives.minute(who.basal / 60)

    def best(what: Callable[[], object], days: int) -> float:
        taken = []
        for _ in range(1 if options.quick else 3):
            started = time.perf_counter()
            what()
            taken.append(time.perf_counter() - started)
        return days / min(taken)

    logs = best(lambda: list(logged(Care(logs="randomised"), count, seed=HELD)), 2 * count)
    yield Row(
        id="glucose.simulator.patient_days_per_second",
        value=best(live, count),
        n=count,
        unit="1/s",
        baselines={"logged_care": logs},
    )


def seconds(options: Options) -> Iterator[Row]:
    """All that this command has done until now for one seed; beside it recording, training and fitting alone, both
    kinds of logs.
    """
    seeds = SEEDS[:1] if options.quick else SEEDS
    taken = [max(m.seconds for m in made(seed, options).values()) for seed in seeds]
    value = (time.perf_counter() - STARTED) / len(seeds)
    yield Row(
        id="glucose.seconds",
        value=value,
        n=len(seeds),
        seeds=seeds,
        unit="s",
        baselines={"making": float(np.mean(taken))},
    )


MEASURES = {
    "glucose.forecast": forecasts,
    "glucose.coverage_90": coverage,
    **{f"glucose.what_if.{logs}": functools.partial(what_if, logs) for logs in LOGS},
    "glucose.control": control,
    **TRUST,
    "glucose.simulator": simulator,
    "glucose.seconds": seconds,
    # Last: its seconds are not those of glucose.
    **REMIFENTANIL,
}


if __name__ == "__main__":
    run("glucose", MEASURES)
