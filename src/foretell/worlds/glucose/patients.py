"""The 30 virtual patients with type 1 diabetes of the UVA/Padova simulator, their parameters as published.

`patients.csv` holds the parameters as the `simglucose` package, version 0.2.11, carries them (Jinyu Xie, MIT licence):
13 initial states, the parameters of the model in its units (per kg of body weight, minutes, mg, pmol), and what a
clinic would know of each patient.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError

Array = NDArray[np.float64]
STATES = 13
GROUPS = ("adolescent", "adult", "child")


@dataclass(frozen=True)
class Patients:
    """n patients, each parameter (n,). names: such as `adult#001`. start: (13, n) their state at rest.

    carb_ratio: g of carbohydrates that a unit of insulin covers. correction_factor: mg/dL that a unit lowers glucose
    by. basal: U/h that keep them at rest.
    """

    names: tuple[str, ...]
    start: Array
    values: dict[str, Array]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, parameter: str) -> Array:
        return self.values[parameter]

    @property
    def basal(self) -> Array:
        """(n,) U/h of insulin at which glucose stays where it is at rest."""
        # pmol/kg/min -> U/h; a unit is 6,000 pmol.
        return np.asarray(self["u2ss"] * self["BW"] / 6000 * 60)


def patients(names: Sequence[str]) -> Patients:
    """The patients of these names, which may repeat; SpecError for an unknown one."""
    table = _table()
    for name in names:
        if name not in table:
            raise SpecError(f"glucose: no patient {name!r}; there are adolescent#001 to #010, adult and child likewise")
    rows = [table[n] for n in names]
    return Patients(
        tuple(names),
        np.array([[row[f"x{i}"] for row in rows] for i in range(STATES)]),
        {key: np.array([row[key] for row in rows]) for key in rows[0] if not key.startswith("x")} if rows else {},
    )


def names(*groups: str) -> tuple[str, ...]:
    """Names of all patients, or of those of some groups: adolescent, adult, child."""
    for group in groups:
        if group not in GROUPS:
            raise SpecError(f"glucose: no group {group!r} of patients; there are {', '.join(GROUPS)}")
    return tuple(name for name in _table() if not groups or name.split("#")[0] in groups)


@functools.cache
def _table() -> dict[str, dict[str, float]]:
    text = files(__package__).joinpath("patients.csv").read_text(encoding="utf-8")
    return {
        row["name"]: {key: float(value) for key, value in row.items() if key != "name"}
        for row in csv.DictReader(text.splitlines())
    }
