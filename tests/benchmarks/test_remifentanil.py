"""The remifentanil benchmark: its equations, who is left out, and the whole of it on patients made up."""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn", reason="pip install -e '.[dev]'")
from scipy.integrate import solve_ivp

from benchmarks import remifentanil
from benchmarks.remifentanil import (
    FOLDS,
    MINUTES,
    SEEN,
    Latent,
    Patient,
    Population,
    compartments,
    episode,
    features,
    folds,
    patients_of,
)
from benchmarks.result import Options
from foretell.errors import SpecError


def made_up(count: int = 30, seed: int = 0) -> pd.DataFrame:
    """A table with nlme's columns: infusions of ten minutes into two compartments, measured with errors of a tenth."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        age, lean = rng.uniform(20, 80), rng.uniform(40, 70)
        times = np.array([0, 1.5, 2, 2.52, 3, 4, 5, 7, 10, 10.05, 11, 12.02, 13, 15, 17, 20, 25, 30])
        rates = np.where(times < 10, 4 * lean, 0.0)
        own = np.array([[2.6 * (lean / 55) ** 0.5, 6.0, 1.5, 9.0 * math.exp(0.2 * rng.normal())]])
        conc = compartments(own, times[None], rates[None])[0] * np.exp(0.1 * rng.normal(size=len(times)))
        conc[[0, 8]] = np.nan
        found.append(
            pd.DataFrame(
                {
                    "ID": i + 1,
                    "Time": times,
                    "conc": conc,
                    "Rate": rates,
                    "Amt": rates * np.append(np.diff(times), 0),
                    "Age": age,
                    "Sex": "Male" if i % 2 else "Female",
                    "Ht": 170,
                    "Wt": lean * 1.3,
                    "LBM": lean,
                }
            )
        )
    return pd.concat(found, ignore_index=True)


@pytest.mark.parametrize("outer", [(1.5, 9.0), (1.5, 9.0, 0.08, 5.0)])
def test_compartments_are_those_of_an_ode_solver(outer: tuple[float, ...]) -> None:
    clearance, central = 2.6, 5.5
    times, rates = np.array([0, 1.5, 4, 10, 10, 25, 60.0]), np.array([200, 200, 50, 0, 0, 100, 0.0])
    found = compartments(np.array([[clearance, central, *outer]]), times[None], rates[None])[0]
    exchange, volumes = np.array(outer[::2]), np.array(outer[1::2])

    def slopes(t: float, a: Any, rate: float) -> Any:
        flow = exchange * (a[0] / central - a[1:] / volumes)
        return [rate - clearance * a[0] / central - flow.sum(), *flow]

    state, expected = np.zeros(1 + len(exchange)), [0.0]
    for k in range(len(times) - 1):
        if times[k + 1] > times[k]:
            span = (times[k], times[k + 1])
            state = solve_ivp(slopes, span, state, args=(rates[k],), rtol=1e-10, atol=1e-10).y[:, -1]
        expected.append(state[0] / central)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_compartment_without_exchange_is_the_textbook_infusion() -> None:
    times, rates = np.array([[0, 3, 8.0]]), np.array([[100, 100, 0.0]])
    found = compartments(np.array([[2.0, 4.0, 1e-9, 1.0]]), times, rates)[0]
    assert found == pytest.approx(100 / 2 * (1 - np.exp(-2 / 4 * times[0])), rel=1e-6)


def test_no_patient_is_in_two_folds() -> None:
    every = folds(65, FOLDS)
    assert sorted(i for _, left in every for i in left) == list(range(65))
    for kept, left in every:
        assert not set(kept) & set(left)
        assert len(kept) + len(left) == 65
    again = folds(65, FOLDS)
    assert all(np.array_equal(x[1], y[1]) for x, y in zip(every, again, strict=True))


def test_a_rate_lasts_until_the_next_row() -> None:
    table = made_up(1)
    (patient,) = patients_of(table)
    t = patient.times
    assert patient.infused(t[:-1], t[1:]) == pytest.approx(table["Amt"].to_numpy()[:-1])
    assert patient.infused(np.array([-5.0, 9.0]), np.array([2.0, 99.0])) == pytest.approx([2, 1] * patient.rates[:1])
    assert patient.stopped == 10
    # In all, by the last row: the whole dose.
    assert features(patient)[-1, 7] == pytest.approx(table["Amt"].sum())


def test_an_episode_is_masked_where_nothing_was_measured() -> None:
    (patient,) = patients_of(made_up(1))
    one, other = (episode(patient, 4, 80, factor) for factor in (1.0, 3.0))
    there = one.valid["concentration"][:, 0]
    assert not there[:5].any()
    # 10.05 and, without a concentration, 10; every other row has a step of its own.
    assert there.sum() == len(patient.measured)
    step = 4 + int(12 / MINUTES)
    assert one.observations["concentration"][step, 0] == pytest.approx(patient.logs[11], rel=1e-6)
    assert one.actions.sum() * MINUTES == pytest.approx(10 * patient.rates[0], rel=1e-6)
    assert other.actions == pytest.approx(3 * one.actions, rel=1e-6)
    moved = (other.observations["concentration"] - one.observations["concentration"])[there]
    assert moved == pytest.approx(np.log(3), rel=1e-5)


@pytest.mark.slow
def test_forecasts_use_nothing_that_is_asked() -> None:
    patients = patients_of(made_up(12))
    for forecast in (
        Population(patients[:11]),
        remifentanil.Boosting(patients[:11]),
        remifentanil.Others(patients[:11]),
        Latent(patients[:4], remifentanil._settings(0, quick=True)),
    ):
        for seen in (0, SEEN):
            asked = patients[11]
            changed = asked.logs.copy()
            changed[asked.asked(seen)] += 1.0
            other = Patient(asked.name, asked.covariates, asked.times, asked.rates, changed)
            (one,), (same,) = forecast([asked], seen), forecast([other], seen)
            assert len(one) == len(asked.measured) - seen
            assert np.array_equal(one, same), type(forecast).__name__


def test_a_population_is_found_again_and_a_patient_by_what_was_seen() -> None:
    patients = patients_of(made_up(40))
    found = Population(patients[:30])
    assert np.exp(found.fixed[:4]) == pytest.approx([2.6, 6.0, 1.5, 9.0], rel=0.2)
    errors = {}
    for seen in (0, SEEN):
        said = zip(found(patients[30:], seen), patients[30:], strict=True)
        errors[seen] = np.concatenate([logs - p.logs[p.asked(seen)] for logs, p in said])
    assert np.sqrt(np.mean(errors[0] ** 2)) < 0.25
    assert np.sqrt(np.mean(errors[SEEN] ** 2)) < 0.25


@pytest.mark.slow
def test_the_whole_of_it_runs_on_made_up_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remifentanil, "load", functools.partial(made_up, 20))
    remifentanil._outcome.cache_clear()
    found = list(remifentanil.rows(Options(quick=True)))
    remifentanil._outcome.cache_clear()
    names = ("log_rmse", "log_rmse.unexplored", "log_rmse.by_patient", "coverage_90")
    assert [row.id for row in found] == [f"remifentanil{w}.{n}" for w in ("", ".after_ten") for n in names]
    for row in found:
        assert row.interval is not None
        assert row.interval[0] <= row.value <= row.interval[1]
        assert all(map(math.isfinite, (row.value, *row.baselines.values())))
        assert {"two_compartments", "three_compartments", "boosting", "others"} <= row.baselines.keys()
    assert found[0].baselines["two_compartments"] < found[0].baselines["others"]


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'foretell\[benchmarks\]'"):
        remifentanil.load()
