"""The virtual patients: as published, and as the reference implementation has them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from foretell.errors import SpecError
from foretell.worlds.glucose.patients import names, patients
from foretell.worlds.glucose.simulator import Simulator

DAY = 24 * 60


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`simglucose.patient.t1dpatient` alone: the package's own __init__ asks for a Gym of 2017."""
    found = importlib.util.find_spec("simglucose")
    if found is None or importlib.util.find_spec("pandas") is None:
        pytest.skip("needs the reference: pip install pandas; pip install --no-deps simglucose==0.2.11")
    (folder,) = found.submodule_search_locations or []
    package = types.ModuleType("simglucose")
    package.__path__ = [folder]
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda name, path: f"{folder}/{path}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "simglucose", package)
    monkeypatch.setitem(sys.modules, "pkg_resources", resources)
    yield importlib.import_module("simglucose.patient.t1dpatient")
    for name in [n for n in sys.modules if n.startswith("simglucose.")]:
        monkeypatch.delitem(sys.modules, name)


def test_three_patients_follow_the_reference_for_a_day_within_a_hundredth(reference: Any) -> None:
    who = ["adult#001", "adolescent#003", "child#005"]
    ours, theirs = Simulator(patients(who)), [reference.T1DPatient.withName(name) for name in who]
    meals = {7 * 60: 45.0, 12 * 60: 70.0, 12 * 60 + 20: 15.0, 18 * 60 + 30: 80.0}
    worst = 0.0
    for minute in range(DAY):
        meal = meals.get(minute, 0.0) * np.array([1.0, 0.8, 0.5])
        insulin = ours.patients.basal / 60 * (2.0 if minute % 240 < 120 else 0.5) + meal / ours.patients["carb_ratio"]
        seen = np.array([p.observation.Gsub for p in theirs])
        worst = max(worst, float(np.abs(ours.sensed - seen).max()))
        ours.eat(meal)
        ours.minute(insulin)
        for i, patient in enumerate(theirs):
            patient.step(reference.Action(CHO=meal[i], insulin=insulin[i]))
    assert worst <= 0.01


def test_there_are_thirty_patients_at_rest_with_their_basal_rate() -> None:
    assert len(names()) == 30
    assert [len(names(group)) for group in ("adolescent", "adult", "child")] == [10, 10, 10]
    ward = Simulator(patients(names()))
    first = ward.glucose
    assert np.allclose(first, ward.sensed)
    assert (first > 90).all()
    assert (first < 180).all()
    for _ in range(6 * 60):
        ward.minute(ward.patients.basal / 60)
    assert np.abs(ward.glucose - first).max() < 1.0


def test_each_patient_is_as_alone() -> None:
    who = ("adult#002", "child#009", "adolescent#010")
    together, alone = Simulator(patients(who)), [Simulator(patients([n])) for n in who]
    rng = np.random.default_rng(0)
    for minute in range(300):
        insulin = rng.uniform(0, 0.1, 3)
        meal = rng.uniform(5, 60, 3) * (minute % 100 == 7)
        together.eat(meal)
        together.minute(insulin)
        for i, one in enumerate(alone):
            one.eat(meal[i : i + 1])
            one.minute(insulin[i : i + 1])
    assert np.allclose(together.state, np.concatenate([one.state for one in alone], axis=1), rtol=1e-9, atol=1e-9)


def after(hours: int, *, insulin: float = 1.0, bolus: float = 0.0, meal: float = 0.0, sensitivity: float = 1.0) -> Any:
    """Glucose of all patients after some hours at so many times their basal rate, a bolus and a meal at first."""
    people = patients(names())
    ward = Simulator(people, np.full(len(people), sensitivity))
    ward.eat(np.full(len(people), meal))
    for minute in range(60 * hours):
        ward.minute(people.basal / 60 * insulin + bolus * (minute == 0))
    return ward.glucose


def test_meals_raise_glucose_and_insulin_lowers_it_in_everyone() -> None:
    rest = after(3)
    assert (after(3, meal=40) > rest + 5).all()
    assert (after(3, bolus=1) < rest - 1).all()
    assert (after(3, insulin=0) > rest + 1).all()
    assert (after(3, bolus=1, sensitivity=2.0) < after(3, bolus=1)).all()
    # A gram eaten is a gram less on the table, at 5 g a minute.
    ward = Simulator(patients(["adult#001"]))
    ward.eat(np.array([12.0]))
    left = []
    for _ in range(3):
        ward.minute(np.zeros(1))
        left.append(float(ward.to_eat[0]))
    assert left == [7.0, 2.0, 0.0]


def test_a_copy_goes_its_own_way() -> None:
    ward = Simulator(patients(["adult#001", "adult#002"]))
    ward.eat(np.array([50.0, 0.0]))
    for _ in range(30):
        ward.minute(np.full(2, 0.02))
    other, before = ward.copied(), ward.state.copy()
    for _ in range(60):
        other.minute(np.full(2, 0.2))
    assert np.array_equal(ward.state, before)
    again = ward.copied()
    for _ in range(60):
        again.minute(np.full(2, 0.2))
    assert np.array_equal(again.state, other.state)


def test_patients_of_several_wards_live_on_together_as_they_would_alone() -> None:
    one, other = (Simulator(patients([name] * 2), np.array([1.0, 2.0])) for name in ("adult#003", "child#001"))
    for ward, minutes in ((one, 20), (other, 45)):
        ward.eat(np.array([30.0, 60.0]))
        for _ in range(minutes):
            ward.minute(np.array([0.02, 0.05]))
    both, before = Simulator.joined([(other, 1), (one, 0)]), one.state.copy()
    for _ in range(100):
        both.minute(np.array([0.05, 0.02]))
    assert np.array_equal(one.state, before)
    for ward in (one, other):
        for _ in range(100):
            ward.minute(np.array([0.02, 0.05]))
    assert np.array_equal(both.state, np.stack([other.state[:, 1], one.state[:, 0]], axis=1))


def test_an_unknown_patient_or_group_is_refused() -> None:
    with pytest.raises(SpecError, match="no patient 'adult#011'"):
        patients(["adult#011"])
    with pytest.raises(SpecError, match="no group 'dog'"):
        names("dog")
