"""Glucose and insulin of many virtual patients at once: the UVA/Padova model of type 1 diabetes.

Equations: Dalla Man, Rizza & Cobelli 2007, "Meal simulation model of the glucose-insulin system" (IEEE Trans. Biomed.
Eng. 54:1740), with subcutaneous insulin as in Kovatchev et al. 2009, "In silico preclinical trials" (J. Diabetes Sci.
Technol. 3:44). Insulin follows linear equations and moves on exactly, by matrix exponentials; stomach, gut and glucose
move by the classical Runge-Kutta method in steps of a minute.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from foretell.worlds.glucose.patients import Patients, patients

Array = NDArray[np.float64]
EATING = 5.0
"""g of carbohydrates that are eaten in a minute."""
PMOL = 6000.0
"""pmol in a unit of insulin."""
# As published: solid and liquid in the stomach, gut (mg), glucose in plasma and tissue (mg/kg); insulin in plasma
# (pmol/kg), its action on glucose (pmol/L) and, delayed twice, on the liver, insulin in the liver and twice under the
# skin (pmol/kg); glucose under the skin (mg/kg).
_FOOD = [0, 1, 2, 3, 4, 12]
_INSULIN = slice(5, 12)
_SOLID, _LIQUID, _GUT, _PLASMA, _TISSUE, _SENSED = range(6)
_IN_PLASMA, _ACTION, _DELAY, _DELAYED, _LIVER, _DEPOT, _SLOW = range(7)


class Simulator:
    """n patients, each at rest at first. sensitivity: (n,) factor of what insulin does, 1 unless given (illness)."""

    def __init__(self, patients: Patients, sensitivity: Array | None = None) -> None:
        n = len(patients)
        self.patients = patients
        self.sensitivity = np.ones(n) if sensitivity is None else np.asarray(sensitivity, np.float64)
        self._food: Array = patients.start[_FOOD]
        self._insulin: Array = patients.start[_INSULIN].copy()
        self.to_eat: Array = np.zeros(n)
        self._eating = np.zeros(n, np.bool_)
        # What a meal began with and what was eaten of it, mg: how fast the stomach empties depends on both.
        self._began: Array = self._food[_SOLID] + self._food[_LIQUID]
        self._eaten: Array = np.zeros(n)
        self._constants()

    def __len__(self) -> int:
        return len(self.patients)

    def copied(self) -> Self:
        """The same patients as they are now, to try another treatment on."""
        # Nothing is changed in place but what is yet to be eaten.
        other = copy.copy(self)
        other.to_eat = self.to_eat.copy()
        return other

    @classmethod
    def joined(cls, moments: Sequence[tuple[Simulator, int]]) -> Self:
        """Patient i of each simulator, as each is now, together."""
        names = [each.patients.names[i] for each, i in moments]
        found = cls(patients(names), np.array([each.sensitivity[i] for each, i in moments]))
        for name in ("_food", "_insulin", "to_eat", "_eating", "_began", "_eaten"):
            setattr(found, name, np.stack([getattr(each, name)[..., i] for each, i in moments], axis=-1))
        return found

    @property
    def state(self) -> Array:
        """(13, n) in the order and units of the published model."""
        return np.concatenate([self._food[:5], self._insulin, self._food[5:]])

    @property
    def glucose(self) -> Array:
        """(n,) mg/dL in plasma."""
        return np.asarray(self._food[_PLASMA] / self.patients["Vg"])

    @property
    def sensed(self) -> Array:
        """(n,) mg/dL under the skin, where sensors measure: some ten minutes behind plasma."""
        return np.asarray(self._food[_SENSED] / self.patients["Vg"])

    def answer(self, sensitivity: Array) -> None:
        """From now on insulin does so many times (n,) what it does to the patients as published."""
        self.sensitivity = np.asarray(sensitivity, np.float64)
        self._stops = self.sensitivity * self.patients["kp3"]
        self._uses = self.sensitivity * self.patients["Vmx"]

    def eat(self, carbohydrates: Array) -> None:
        """Put so many g (n,) on the table: they are eaten at 5 g a minute."""
        self.to_eat += carbohydrates

    def minute(self, insulin: Array) -> None:
        """A minute with insulin at U/min (n,)."""
        eaten = np.minimum(EATING, self.to_eat)
        self.to_eat -= eaten
        eats = eaten > 0
        begins = eats & ~self._eating
        x = self._food
        self._began = np.where(begins, x[_SOLID] + x[_LIQUID], self._began)
        self._eaten = np.where(begins, 0.0, self._eaten) + 1000 * eaten
        self._eating = eats
        meal = self._began + self._eaten
        some = np.maximum(meal, 1e-9)
        self._meal = (meal > 0, self._steep_b / some, self._b * meal, self._steep_d / some, self._d * meal)
        self._inflow = 1000 * eaten
        given = self._gives * (insulin * self._per_kg) + self._drifts
        half = np.einsum("ijn,jn->in", self._keeps, self._insulin) + given
        then = np.einsum("ijn,jn->in", self._keeps, half) + given
        one = self._slope(x, self._insulin)
        two = self._slope(x + 0.5 * one, half)
        three = self._slope(x + 0.5 * two, half)
        four = self._slope(x + three, then)
        self._food = x + (one + 2 * (two + three) + four) / 6
        self._insulin = then

    def _constants(self) -> None:
        p, n = self.patients, len(self)
        self._b, self._d = p["b"], p["d"]
        self._steep_b, self._steep_d = 5 / (2 * (1 - p["b"])), 5 / (2 * p["d"])
        self._per_kg = PMOL / p["BW"]
        self._empty = (p["kmax"] - p["kmin"]) / 2
        self._absorbed = p["f"] * p["kabs"] / p["BW"]
        self.answer(self.sensitivity)
        rates = np.zeros((n, 9, 9))
        for row, column, rate in (
            (_IN_PLASMA, _IN_PLASMA, -(p["m2"] + p["m4"])),
            (_IN_PLASMA, _LIVER, p["m1"]),
            (_IN_PLASMA, _DEPOT, p["ka1"]),
            (_IN_PLASMA, _SLOW, p["ka2"]),
            (_ACTION, _ACTION, -p["p2u"]),
            (_ACTION, _IN_PLASMA, p["p2u"] / p["Vi"]),
            (_DELAY, _DELAY, -p["ki"]),
            (_DELAY, _IN_PLASMA, p["ki"] / p["Vi"]),
            (_DELAYED, _DELAYED, -p["ki"]),
            (_DELAYED, _DELAY, p["ki"]),
            (_LIVER, _LIVER, -(p["m1"] + p["m30"])),
            (_LIVER, _IN_PLASMA, p["m2"]),
            (_DEPOT, _DEPOT, -(p["ka1"] + p["kd"])),
            (_SLOW, _DEPOT, p["kd"]),
            (_SLOW, _SLOW, -p["ka2"]),
            # Two inputs that stay as they are: insulin under the skin, and what its action is counted from.
            (_DEPOT, 7, 1.0),
            (_ACTION, 8, -p["p2u"] * p["Ib"]),
        ):
            rates[:, row, column] = rate
        moved = np.moveaxis(_exponential(rates / 2), 0, -1)
        self._keeps = np.ascontiguousarray(moved[:7, :7])
        self._gives, self._drifts = np.ascontiguousarray(moved[:7, 7]), np.ascontiguousarray(moved[:7, 8])

    def _slope(self, x: Array, insulin: Array) -> Array:
        """d/dt of food and glucose (6, n), per minute, at insulin (7, n)."""
        p = self.patients.values
        full, steep_b, at_b, steep_d, at_d = self._meal
        out = np.empty_like(x)
        solid, liquid, gut, plasma, tissue, sensed = x
        stomach = solid + liquid
        emptying = p["kmin"] + self._empty * (
            np.tanh(steep_b * (stomach - at_b)) - np.tanh(steep_d * (stomach - at_d)) + 2
        )
        leaves = np.where(full, emptying, p["kmax"]) * liquid
        ground = p["kmax"] * solid
        out[_SOLID] = self._inflow - ground
        out[_LIQUID] = ground - leaves
        out[_GUT] = leaves - p["kabs"] * gut
        made = np.maximum(p["kp1"] - p["kp2"] * plasma - self._stops * insulin[_DELAYED], 0)
        excreted = p["ke1"] * np.maximum(plasma - p["ke2"], 0)
        exchanged = p["k1"] * plasma - p["k2"] * tissue
        used = (p["Vm0"] + self._uses * insulin[_ACTION]) * tissue / (p["Km0"] + tissue)
        out[_PLASMA] = made + self._absorbed * gut - p["Fsnc"] - excreted - exchanged
        out[_TISSUE] = exchanged - used
        out[_SENSED] = p["ksc"] * (plasma - sensed)
        # Amounts do not fall below nothing.
        out[_PLASMA:] *= x[_PLASMA:] >= 0
        return out


def _exponential(rates: Array) -> Array:
    """The matrix exponential of each of (n, k, k) with norms around 1, by its series."""
    term = found = np.broadcast_to(np.eye(rates.shape[-1]), rates.shape)
    for order in range(1, 20):
        term = term @ rates / order
        found = found + term
    return found
