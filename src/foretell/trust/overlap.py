"""Overlap: where the logs varied what was done, and where they never did, so that no 'what if' can be answered there.

Whoever always does the same in the same state leaves no trace of what another action would have led to, however much
was recorded. What is needed is called overlap, or positivity (Rosenbaum & Rubin 1983, Biometrika 70:41).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn

from foretell.errors import DataError, SpecError
from foretell.spec import Episode, Spec

Array = NDArray[np.float64]
LEAST = 0.01
"""Share of comparable steps at which what was done must have differed, for no reason to be seen, by half of a change
that is asked about or more."""
ALIKE = 100
"""Steps of training that are comparable: those most like the one in question."""
STRETCHES = (3, 12, 48, 288)
"""Steps of the stretches that what was before is averaged over."""
SOMEWHERE = 0.05
"""The same share of a kind of steps (with a meal, at low glucose) for which alone an action is said to have varied."""
_STEPS = 6000
_KEPT = 5000
_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Varied:
    """What logs tell of one action.

    usual: its mean where it is not 0, in its unit. unexplained: the share of its variance that nothing seen explains.
    often: the share of steps at which it differed from what was to be expected by half of what is usual or more.
    where: the same of steps apart, by name.
    """

    action: str
    unit: str
    usual: float
    unexplained: float
    often: float
    where: Mapping[str, float]

    @property
    def varied(self) -> bool:
        """Whether the logs can tell anywhere what this action does."""
        return self.often >= LEAST or max(self.where.values(), default=0.0) >= SOMEWHERE

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        size = f"differed by {_HALF * self.usual:.2g}{unit} or more from what was to be expected"
        if self.often >= LEAST:
            return f"{self.action}: {size} at {self.often:.1%} of steps"
        if self.varied:
            most = max(self.where, key=lambda name: self.where[name])
            return f"{self.action}: {size} at {self.often:.1%} of steps, at {self.where[most]:.1%} with {most}"
        return f"{self.action}: never varied but for reasons that are seen ({size} at {self.often:.1%} of steps)"


class Overlap(nn.Module):
    """How actions differed from what was to be expected in states like those of training.

    states: (n, S) what was seen, in units of its spread: first `drawn` of all steps, then some at which something is
    that mostly is not (a meal), as all steps hold few of these. left: (n, A) what was done less what was to be
    expected, in units of what was usual for that group. usual: (A,) of all. unexplained: (A,) shares of variance.
    """

    def __init__(self, spec: Spec, *, states: int, drawn: int, size: int) -> None:
        super().__init__()
        self.spec, self.drawn = spec, drawn
        actions = spec.action.size
        self.register_buffer("states", torch.zeros(states, size))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.register_buffer("left", torch.zeros(states, actions))
        self.register_buffer("usual", torch.zeros(actions))
        self.register_buffer("unexplained", torch.zeros(actions))

    def report(self) -> list[Varied]:
        """What the logs tell of each action that is chosen; steps apart are those of each third of each observation,
        or those where it is 0 and where it is not, if it mostly is.
        """
        action, found = self.spec.action, []
        left = self.get_buffer("left").abs().double().numpy()
        regions = self._regions()
        for i in (i for i, chosen in enumerate(action.chosen) if chosen):
            found.append(
                Varied(
                    action=action.names[i],
                    unit=action.units[i],
                    usual=float(self.get_buffer("usual")[i]),
                    unexplained=float(self.get_buffer("unexplained")[i]),
                    often=float((left[: self.drawn, i] >= _HALF).mean()),
                    where={name: float((left[inside, i] >= _HALF).mean()) for name, inside in regions.items()},
                )
            )
        return found

    def share(self, history: Episode, change: Array) -> Array:
        """(A,) of the training steps most like the last one of a history, the share at which each action differed from
        what was to be expected by half of the change (A,) asked about or more, to the same side; 1 where no change is.

        A change counts in units of what is usual in the history, whose actions may hold one for its last step, too, in
        which exogenous ones are told of. Raises SpecError where a channel is missing.
        """
        now = torch.from_numpy(features(self.spec, history)[-1:]).float()
        there = (now - self.get_buffer("centre")) / self.get_buffer("spread")
        near = (
            (self.get_buffer("states") - there)
            .square()
            .sum(1)
            .topk(min(ALIKE, len(self.get_buffer("states"))), largest=False)
        )
        left = np.sign(change) * self.get_buffer("left")[near.indices].double().numpy()
        usual = usual_of(np.asarray(history.actions, np.float64))
        usual = np.where(usual > 0, usual, self.get_buffer("usual").double().numpy())
        asked = np.abs(change) / np.where(usual > 0, usual, 1.0)
        return np.where(asked > 1e-6, (left >= np.maximum(_HALF * asked, 1e-9)).mean(0), 1.0)

    def _regions(self) -> dict[str, NDArray[np.bool_]]:
        states = self.get_buffer("states") * self.get_buffer("spread") + self.get_buffer("centre")
        found: dict[str, NDArray[np.bool_]] = {}
        names = [
            (f, u) for c in self.spec.observations if c.kind == "vector" for f, u in zip(c.fields, c.units, strict=True)
        ]
        for k, (name, unit) in enumerate(names):
            x = states[:, k].double().numpy()
            unit = f" {unit}" if unit else ""
            if np.mean(np.abs(x[: self.drawn]) < 1e-6) > 0.5:
                found |= {f"{name} 0": np.abs(x) < 1e-6, f"{name} above 0": x > 1e-6}
                continue
            low, high = np.quantile(x[: self.drawn], [1 / 3, 2 / 3])
            found[f"{name} below {low:.3g}{unit}"] = x < low
            found[f"{name} {low:.3g} to {high:.3g}{unit}"] = (x >= low) & (x < high)
            found[f"{name} from {high:.3g}{unit}"] = x >= high
        ordinary = np.arange(len(states)) < self.drawn
        found = {n: x if n.endswith(" above 0") else x & ordinary for n, x in found.items()}
        return {name: inside for name, inside in found.items() if inside.sum() >= 100}

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        states, size = self.get_buffer("states").shape
        return {"spec": self.spec.to_json(), "states": states, "drawn": self.drawn, "size": size}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Overlap:
        """Of that configuration, its values not loaded yet; SpecError where a part is missing or wrong."""
        try:
            sizes = {name: int(data[name]) for name in ("states", "drawn", "size")}
            return Overlap(Spec.from_json(data["spec"]), **sizes)
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"not an overlap: {error!r}") from error


def features(spec: Spec, episode: Episode) -> Array:
    """(T, S) what may be a reason for an action at each step: vectors as last known, what is told of exogenous actions,
    the action before, and means over stretches of what was. Raises SpecError where the spec has no vectors.
    """
    vectors = [c for c in spec.observations if c.kind == "vector"]
    if not vectors:
        raise SpecError("overlap: vectors among the observations expected, by which actions may be explained")
    steps = len(episode)
    seen = np.concatenate([_known(episode, c.name) for c in vectors], axis=1)
    done = np.zeros((steps, spec.action.size))
    done[1:] = episode.actions[: steps - 1]
    told = np.zeros_like(done)
    count = min(steps, len(episode.actions))
    told[:count] = episode.actions[:count]
    told = told[:, [not chosen for chosen in spec.action.chosen]]
    before = np.concatenate([seen, done], axis=1)
    sums = np.concatenate([np.zeros((1, before.shape[1])), before.cumsum(0)])
    at = np.arange(steps)
    parts = [seen, told, done]
    for stretch in STRETCHES:
        first = np.maximum(at + 1 - stretch, 0)
        parts.append((sums[at + 1] - sums[first]) / (at + 1 - first)[:, None])
        # What was highest tells a habit that is suspended now.
        parts.append(np.stack([_highest(x, stretch) for x in done.T], axis=1))
    return np.concatenate(parts, axis=1)


def usual_of(actions: Array) -> Array:
    """(A,) mean size of actions (T, A) where they are not 0; 0 where they always are."""
    given = np.abs(actions) > 1e-9
    return np.asarray(np.where(given, np.abs(actions), 0.0).sum(0) / np.maximum(given.sum(0), 1))


def fit_overlap(spec: Spec, episodes: Sequence[Episode], *, seed: int) -> Overlap:
    """How far each action followed from what was seen, by gradient boosting that is fitted on one half of the episodes
    of each group and judged on the other, both ways round: the same in the same state must mean for the same patient.

    Raises DataError where a group has fewer than 100 steps on end, SpecError without actions or vectors.
    """
    if not any(spec.action.chosen):
        raise SpecError("overlap: the spec names no action that anybody chooses")
    rng = np.random.default_rng([seed, 0x0E1])
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(episode)
    if not groups or min(sum(map(len, each)) for each in groups.values()) < 100:
        raise DataError("overlap: at least 100 steps of each group expected")
    states, left, sizes, shares, usuals = [], [], [], [], []
    for each in groups.values():
        x = np.concatenate([features(spec, e)[: len(e.actions)] for e in each])
        y = np.concatenate([np.asarray(e.actions, np.float64) for e in each])
        number = np.concatenate([np.full(len(e.actions), i) for i, e in enumerate(each)])
        # A single episode is halved in time.
        half = number % 2 == 0 if len(each) > 1 else np.arange(len(y)) < len(y) // 2
        kept = np.sort(rng.permutation(len(y))[:_STEPS])
        x, y, half = x[kept], y[kept], half[kept]
        usual = usual_of(y)
        rest = np.zeros_like(y)
        for i in np.flatnonzero(np.array(spec.action.chosen) & (np.ptp(y, axis=0) > 0)):
            for inside in (half, ~half):
                told = HistGradientBoostingRegressor(max_iter=50, min_samples_leaf=5, random_state=seed)
                told.fit(x[~inside], y[~inside, i])
                rest[inside, i] = y[inside, i] - told.predict(x[inside])
        states.append(x)
        left.append(rest / np.where(usual > 0, usual, 1.0))
        usuals.append(usual)
        shares.append((rest.var(0), y.var(0)))
        sizes.append(len(y))
    every, rests = np.concatenate(states), np.concatenate(left)
    drawn = rng.permutation(len(every))[:_KEPT]
    now = every[:, : _now(spec)]
    rare = (np.abs(now) > 1e-6) & (np.mean(np.abs(now) > 1e-6, axis=0) < 0.5)
    some = np.concatenate([drawn, rng.permutation(np.flatnonzero(rare.any(1)))[:_KEPT]])
    made = Overlap(spec, states=len(some), drawn=len(drawn), size=every.shape[1])
    centre, spread = every.mean(0), np.maximum(every.std(0), 1e-6)
    unexplained, total = (np.average([s[k] for s in shares], axis=0, weights=sizes) for k in (0, 1))
    for name, value in (
        ("states", (every[some] - centre) / spread),
        ("centre", centre),
        ("spread", spread),
        ("left", rests[some]),
        ("usual", np.average(usuals, axis=0, weights=sizes)),
        ("unexplained", unexplained / np.where(total > 0, total, 1.0)),
    ):
        made.get_buffer(name).copy_(torch.from_numpy(value))
    return made.eval()


def _now(spec: Spec) -> int:
    """How many of the features are about now: vectors and exogenous actions, which come first."""
    return sum(c.shape[0] for c in spec.observations if c.kind == "vector") + len(spec.action.exogenous)


def _known(episode: Episode, name: str) -> Array:
    """(T, F) of a vector, each value the last one known, 0 before any is."""
    values = np.asarray(episode.observations[name], np.float64)
    mask = episode.valid.get(name)
    if mask is None:
        return values
    there = np.broadcast_to(mask.reshape(len(values), -1), values.shape)
    last = np.maximum.accumulate(np.where(there, np.arange(len(values))[:, None], -1), axis=0)
    return np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=0), 0.0)


def _highest(x: Array, stretch: int) -> Array:
    """(T,) the highest of the last `stretch` of (T,)."""
    padded = np.concatenate([np.full(stretch - 1, x[0]), x])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, stretch).max(1))
