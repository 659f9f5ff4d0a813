"""Treating virtual patients: a planner on a model, and what it is compared with. For research, not a medical device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.model.readout import Grounded
from foretell.model.world_model import WorldModel
from foretell.planning import Choose, Controller, ControllerConfig
from foretell.planning.costs import StageCost, after, combined, within
from foretell.worlds.glucose import BasalBolus, Ward
from foretell.worlds.glucose.behaviour import TWO_HOURS
from foretell.worlds.glucose.ward import HIGHEST_BASAL, MINUTES

Array = NDArray[np.float64]
FACTORS = (1.0, 0.0, 0.5, 1.5, 2.0)
"""Multiples of the usual basal rate that randomised logs hold; of equally good ones the first."""
_TARGET = 120.0
_LATEST = 45 // MINUTES
"""Steps by which boluses come late in logs, at most."""


class Treats(Protocol):
    """Decides what the pump gives."""

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]]) -> Array:
        """(n, 2) basal in U/h and bolus in U at what is observed now."""
        ...


class Usual:
    """Basal rate and boluses as prescribed; see `BasalBolus`."""

    def __init__(self, ward: Ward) -> None:
        self.rules, self._ward = BasalBolus(ward), ward

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]]) -> Array:
        """See `Treats`."""
        return self.rules.act(observed, there, np.ones(len(self._ward)))


class Nothing:
    """No insulin at all."""

    def __init__(self, ward: Ward) -> None:
        self._ward = ward

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]]) -> Array:
        """See `Treats`."""
        return np.zeros((len(self._ward), 2))


class PID(Usual):
    """Boluses as prescribed, and a basal rate that follows the error from 120 mg/dL, its integral and its slope.

    proportional: per mg/dL; integral: per mg/dL and hour; derivative: per mg/dL and minute, all as shares of the usual
    rate. suspend: mg/dL below which none is given.
    """

    def __init__(
        self, ward: Ward, *, proportional: float, integral: float, derivative: float, suspend: float = 80.0
    ) -> None:
        super().__init__(ward)
        self.gains, self.suspend = (proportional, integral, derivative), suspend
        self._sum = np.zeros(len(ward))
        self._last: Array | None = None

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]]) -> Array:
        """See `Treats`."""
        actions = super().act(observed, there)
        now = self.rules.known
        slope = np.zeros(len(now)) if self._last is None else (now - self._last) / MINUTES
        self._last = now.copy()
        # Bounded, so that a day of high glucose does not end in one of low.
        self._sum = np.clip(self._sum + (now - _TARGET) * MINUTES / 60, -500, 500)
        p, i, d = self.gains
        factor = 1 + p * (now - _TARGET) + i * self._sum + d * slope
        basal = self.rules.basal * factor * (now >= self.suspend)
        actions[:, 0] = np.clip(basal, 0, HIGHEST_BASAL)
        return actions


class Planned(Usual):
    """At every step that multiple of the usual basal rate, for two hours and then as usual, and that bolus, the one
    prescribed or none, which a model expects to keep glucose within bounds for the next four hours.

    Nothing is tried that randomised logs do not hold: a bolus that is not given is asked about again for as long as
    people are late. low, high: mg/dL between which glucose costs nothing; `low` is far above what is dangerous, as
    forecasts err. weight: of what lies below against what lies above. wait: blocks that a basal rate cannot change.
    suspend: mg/dL below which the pump gives nothing, whatever is planned.
    """

    def __init__(
        self,
        ward: Ward,
        model: WorldModel,
        *,
        low: float = 115.0,
        high: float = 140.0,
        weight: float = 4.0,
        wait: int = 4,
        suspend: float = 90.0,
        hours: int = 4,
    ) -> None:
        super().__init__(ward)
        self.suspend = suspend
        self._pending, self._age = np.zeros(len(ward)), np.zeros(len(ward))
        horizon = hours * 60 // MINUTES // model.config.block
        config = ControllerConfig(horizon=horizon, replan_every=1, terminal=1.0)
        self.controller = Controller(model, Choose(), config, propose=self._propose)
        self._steps, self._basal = horizon * model.config.block, torch.from_numpy(self.rules.basal).float()
        self.state = self.controller.start(
            after(_bounds(model, low, high, weight), wait), batch=len(ward), generator=torch.Generator()
        )

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]]) -> Array:
        """See `Treats`."""
        asked = super().act(observed, there)[:, 1]
        self._age = np.where(asked > 0, 0, self._age + 1)
        self._pending = np.where(asked > 0, asked, np.where(self._age <= _LATEST, self._pending, 0))
        seen = {n: torch.from_numpy(x).float() for n, x in observed.items()}
        known = {n: torch.from_numpy(x)[:, None] for n, x in there.items()}
        told = torch.from_numpy(observed["meal"]).float()[:, None]
        planned, state = self.controller.step(seen, self.state, known, ahead=told)
        given = planned.double().numpy()
        given[:, 0] *= self.rules.known >= self.suspend
        self._pending = np.where(given[:, 1] > 0, 0, self._pending)
        # As it was given, not as it was planned.
        self.state = state.executed(torch.from_numpy(given).float())
        return given[:, :2]

    def _propose(self, context: Tensor, past: Tensor, goal: Tensor | None) -> Tensor:
        """(B, 10, K, block * 3) the usual rate times each factor for two hours, then as usual; each with the bolus that
        is asked for, and without.
        """
        count = len(FACTORS)
        raw = torch.zeros(len(context), 2 * count, self._steps, 3)
        raw[..., 0] = self._basal[:, None, None]
        raw[:, :, :TWO_HOURS, 0] *= torch.tensor(FACTORS * 2)[None, :, None]
        raw[..., 0].clamp_(max=HIGHEST_BASAL)
        raw[:, :count, 0, 1] = torch.from_numpy(self._pending).float()[:, None]
        return raw.view(len(context), 2 * count, self.controller.config.horizon, -1)


def _bounds(model: WorldModel, low: float, high: float, weight: float) -> StageCost:
    """What lies outside, mg/dL squared."""
    reads = Grounded(model, "glucose")
    far = torch.tensor([float("inf")])
    below = within(reads, low=torch.tensor([low]), high=far)
    return combined((weight, below), (1.0, within(reads, low=-far, high=torch.tensor([high]))))


def treat(ward: Ward, treats: Callable[[Ward], Treats], steps: int) -> Array:
    """(n, steps) true glucose in mg/dL after each step of a ward under treatment."""
    doctor = treats(ward)
    found = []
    for _ in range(steps):
        ward.step(doctor.act(*ward.observed()))
        found.append(ward.glucose)
    return np.stack(found, axis=1)


def groups(names: Sequence[str]) -> NDArray[np.str_]:
    """The group of each patient: adult, adolescent, child."""
    return np.array([name.split("#")[0] for name in names])
