"""Treating virtual patients: a planner on a model, and what it is compared with. For research, not a medical device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.readout import Grounded
from foretell.model.world_model import WorldModel
from foretell.planning import Choose, Controller, ControllerConfig
from foretell.planning.response import Response
from foretell.trust.conformal import TrackedQuantile
from foretell.trust.departures import KINDS, SENSOR, Departures
from foretell.worlds.glucose import BasalBolus, Ward
from foretell.worlds.glucose.behaviour import TWO_HOURS
from foretell.worlds.glucose.ward import HIGHEST_BASAL, MINUTES

Array = NDArray[np.float64]
FACTORS = (1.0, 0.0, 0.5, 1.5, 2.0)
"""Multiples of the usual basal rate that randomised logs hold; of equally good ones the first."""
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Of a bolus, what may be given; the first is all of it, the last none."""
_TARGET, _HALF_HOUR = 120.0, 30
_LATEST = 45 // MINUTES
"""Steps by which boluses come late in logs, at most."""
ERRORS = (12.0, 18.0, 22.0, 25.0, 28.0, 30.0, 32.0, 33.0)
"""mg/dL by which forecasts of training patients err, by half hours ahead; how far plans reach."""
# What follows was chosen on training patients, as they are and answering twice as strongly; see docs/ablations.md.
_MARGIN, _RATE = 1.25, 20.0
"""The first lower bound, in such errors, and how fast it follows a patient's own, in mg/dL a half hour."""
_OVERLAPPING = 10.0**0.5
"""By how much less an error says than one that is independent of those before."""
_DRIFT = 0.1
"""How much a patient's answer may change in a day, a standard deviation."""
_ANSWERS = 0.3, 4.0
"""The least and the most that a patient's answer is believed to be."""


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
    """At every step that multiple of the usual basal rate, for two hours and then as usual, and that share of the bolus
    prescribed, none of it to all, which is expected to keep glucose low enough for the next four hours, of those that
    most likely keep it high enough.

    Logs hold boluses given, late and forgotten: what a share of one does is read between the forecasts with and without
    it. A bolus that is not given is asked about again for as long as people are late. How strongly a patient answers to
    boluses, and how far below a forecast glucose comes, is learned from each patient's own days: doubt about either
    makes doses smaller.

    floor: mg/dL that the lower bound of the forecast should stay above; what lies below costs `weight` times as much
    as what lies above `high` mg/dL. beyond: share of outcomes that may lie below the lower bound. doubt: standard
    deviations by which a patient may answer more strongly than believed. wait: blocks that a plan cannot change.
    suspend: mg/dL below which the pump gives nothing, whatever is planned.

    watch: of glucose, its forecasts at each half hour, basal rate and bolus; where it finds, at a `level` of false
    alarms, that the sensor is not what it was, it hands over for good: the basal rate and boluses as prescribed,
    whatever the sensor shows. Of other alarms it only tells (`said`): where forecasts fail, doses become smaller by
    themselves. Raises SpecError for a model whose blocks are not half hours.
    """

    def __init__(
        self,
        ward: Ward,
        model: WorldModel,
        *,
        watch: Departures | None = None,
        level: float = 0.05,
        floor: float = 80.0,
        high: float = 140.0,
        weight: float = 100.0,
        beyond: float = 0.05,
        doubt: float = 1.64,
        wait: int = 4,
        suspend: float = 90.0,
    ) -> None:
        super().__init__(ward)
        if model.config.block * MINUTES != _HALF_HOUR:
            raise SpecError(f"treatment: a model in blocks of half an hour expected, got {model.config.block} steps")
        self.floor, self.high, self.weight, self.doubt, self.suspend = floor, high, weight, doubt, suspend
        self.wait, block, horizon = wait, model.config.block, len(ERRORS)
        self._steps, self._basal = horizon * block, torch.from_numpy(self.rules.basal).float()
        self._pending, self._age = np.zeros(len(ward)), np.zeros(len(ward))
        self.watch, self.level = watch, level
        self.handed = np.zeros(len(ward), np.bool_)
        self.said: list[tuple[int, int, list[str]]] = []
        self._alarmed = torch.zeros(len(ward), len(KINDS), dtype=torch.bool)
        self._departing = None if watch is None else watch.start(len(ward))
        self.response = Response.start(len(ward))
        start = torch.tensor(ERRORS).mul(_MARGIN).repeat(len(ward), 1)
        self.margin = TrackedQuantile(current=start, target=beyond, rate=_RATE)
        self._latents: deque[Tensor] = deque(maxlen=self._steps)
        self._given: deque[Tensor] = deque(maxlen=self._steps)
        self._reads = Grounded(model, "glucose")
        plans = len(FACTORS) * len(SHARES)
        config = ControllerConfig(horizon=horizon, replan_every=1, terminal=1.0, at_once=len(ward) * plans)
        self.controller = Controller(model, Choose(), config, propose=self._propose)
        self.state = self.controller.start(self._cost, batch=len(ward), generator=torch.Generator())

    def act(self, observed: dict[str, Array], there: dict[str, NDArray[np.bool_]]) -> Array:
        """See `Treats`."""
        seen = {n: torch.from_numpy(x).float() for n, x in observed.items()}
        known = {n: torch.from_numpy(x)[:, None] for n, x in there.items()}
        now = torch.where(known["glucose"], seen["glucose"], torch.nan)
        self._watch(now, self._learn(now) if self._ward.time % self.controller.block == 0 else None)
        blind = self.handed[:, None]
        prescribed = super().act({**observed, "glucose": np.where(blind, _TARGET, observed["glucose"])}, there)
        asked = prescribed[:, 1]
        self._age = np.where(asked > 0, 0, self._age + 1)
        self._pending = np.where(asked > 0, asked, np.where(self._age <= _LATEST, self._pending, 0))
        planned, state = self.controller.step(seen, self.state, known, ahead=seen["meal"][:, None])
        given = planned.double().numpy()
        given[:, 0] *= self.rules.known >= self.suspend
        given[:, :2] = np.where(blind, prescribed, given[:, :2])
        self._pending = np.where(given[:, 1] > 0, 0, self._pending)
        # As it was given, not as it was planned.
        self.state = state.executed(torch.from_numpy(given).float())
        self._latents.append(self.state.latents[-1])
        self._given.append(self.state.actions[:, -1])
        return given[:, :2]

    def _watch(self, now: Tensor, errors: Tensor | None) -> None:
        """Hand over, or tell, where readings (n, 1), errors (n, K, 1) or the last actions depart from calibration."""
        if self.watch is None or self._departing is None:
            return
        last = self._given[-1][:, :2] if self._given else None
        found, self._departing = self.watch.step(now, errors, last, self._departing)
        alarms = found.alarms(self.level)
        for i in (alarms & ~self._alarmed).any(1).nonzero()[:, 0].tolist():
            self.said.append((self._ward.time, i, found.reasons(i, self.watch.channel, level=self.level)))
        self._alarmed |= alarms
        self.handed |= alarms[:, [KINDS.index(k) for k in SENSOR]].any(1).numpy()

    def _propose(self, context: Tensor, past: Tensor, goal: Tensor | None) -> Tensor:
        """(B, S, K, block * 3) the usual rate times each factor for two hours, then as usual, with each share of the
        bolus that is asked for; where nobody asks for one, with one share of none.
        """
        shares = torch.tensor(SHARES if self._pending.any() else SHARES[:1])
        raw = torch.zeros(len(context), len(shares), len(FACTORS), self._steps, 3)
        raw[..., 0] = self._basal[:, None, None, None]
        raw[..., :TWO_HOURS, 0] *= torch.tensor(FACTORS)[:, None]
        raw[..., 0].clamp_(max=HIGHEST_BASAL)
        raw[..., 0, 1] = torch.from_numpy(self._pending).float()[:, None, None] * shares[:, None]
        return raw.view(len(context), -1, self.controller.config.horizon, self.controller.block * 3)

    def _cost(self, latents: Tensor) -> Tensor:
        """(B, S, K) of imagined latents (B, S, K, N, D) of all the plans proposed."""
        said: Tensor = self._reads(latents)[..., 0]
        said = said.view(len(said), -1, len(FACTORS), said.shape[-1])
        shares, without = torch.tensor(SHARES[: said.shape[1]])[:, None, None], said[:, -1:]
        effect = (said[:, :1] - without) * shares

        def answering(factor: Tensor) -> Tensor:
            return without + factor[:, None, None, None] * effect

        low = answering(self.response.highest(self.doubt)) - self.margin.current[:, None, None]
        below = (self.floor - low).clamp_min(0).square()
        above = (answering(self.response.mean) - self.high).clamp_min(0).square()
        cost = (self.weight * below + above).flatten(1, 2)
        cost[..., : self.wait] = 0
        return cost

    @torch.no_grad()
    def _learn(self, now: Tensor) -> Tensor:
        """From a reading (n, 1), NaN where there is none: what had been expected of it, at each horizon, of the actions
        since then, with and without their boluses. Returns by how much it was off (n, K, 1), NaN where unknown.
        """
        off = torch.full_like(self.margin.current, torch.nan)
        block, count = self.controller.block, len(self._given) // self.controller.block
        if not count:
            return off[..., None]
        given, batch = torch.stack(list(self._given), dim=1), len(now)
        latents, plans = [], torch.zeros(count, batch, 2, count * block, given.shape[-1])
        for k in range(1, count + 1):
            latents.append(self._latents[-k * block])
            plans[k - 1, :, :, : k * block] = given[:, None, -k * block :]
        plans[:, :, 1, :, 1] = 0
        start = torch.stack(latents).flatten(0, 1)[:, None]
        plan = plans.view(count * batch, 2, count, -1)
        path = self.controller.model.rollout(start, start.new_zeros(len(start), 0, plan.shape[-1]), plan)
        said = self._reads(path)[..., 0].view(count, batch, 2, count).diagonal(dim1=0, dim2=3)
        given_all, given_none = said.unbind(1)
        noise = _OVERLAPPING * torch.tensor(ERRORS[:count])
        believed = self.response.drifted(_DRIFT * (block * MINUTES / (24 * 60)) ** 0.5)
        believed = believed.after(given_all - given_none, now - given_none, noise)
        self.response = replace(believed, mean=believed.mean.clamp(*_ANSWERS))
        scores = torch.full_like(self.margin.current, torch.nan)
        scores[:, :count] = given_none + self.response.mean[:, None] * (given_all - given_none) - now
        self.margin = self.margin.after(scores)
        off[:, :count] = given_all - now
        return off[..., None]


def treat(
    ward: Ward, treats: Callable[[Ward], Treats], steps: int, before: Callable[[Ward], None] = lambda ward: None
) -> Array:
    """(n, steps) true glucose in mg/dL after each step of a ward under treatment. before: called before each step."""
    doctor = treats(ward)
    found = []
    for _ in range(steps):
        before(ward)
        ward.step(doctor.act(*ward.observed()))
        found.append(ward.glucose)
    return np.stack(found, axis=1)


def groups(names: Sequence[str]) -> NDArray[np.str_]:
    """The group of each patient: adult, adolescent, child."""
    return np.array([name.split("#")[0] for name in names])
