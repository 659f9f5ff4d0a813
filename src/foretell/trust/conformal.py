"""Split conformal prediction: p-values and interval widths from calibration scores, and levels that adapt."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.errors import DataError, SpecError

TAIL = 0.02
"""Share of the calibration scores that the tail is extrapolated from."""
FEWEST = 20
"""Scores in a tail, at least; with fewer nothing is extrapolated."""


def check_level(level: float, what: str) -> None:
    """Raise SpecError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise SpecError(f"{what}: a level between 0 and 1 expected, got {level!r}")


def needed(level: float) -> int:
    """Fewest calibration scores with which a new one can be told to be among the `level` highest: 1/level - 1."""
    check_level(level, "calibration")
    return math.ceil(1 / level - 1 - 1e-9)


def p_values(reference: Tensor, scores: Tensor) -> Tensor:
    """(1 + how many calibration scores are at least as high) / (n + 1) (Vovk, Gammerman & Shafer 2005, eq. 2.20).

    reference: (n,) ascending; scores of any shape, which is returned. A score exchangeable with the reference has a
    p-value of at most u with a chance of at most u, for every u.
    """
    below = torch.searchsorted(reference, scores.to(reference).contiguous(), right=False)
    return (1.0 + len(reference) - below).double() / (len(reference) + 1)


def tail_of(reference: Tensor, *, share: float = TAIL, fewest: int = FEWEST) -> Tensor:
    """The Pareto tail fitted to the highest `share` of scores (n,) ascending (Hill 1975), (3,) float64: where it
    begins, its exponent, and the share of the scores beyond. All 0 where fewer than `fewest` are, or scores are not
    positive.
    """
    count = int(len(reference) * share)
    none = torch.zeros(3, dtype=torch.float64)
    if count < fewest:
        return none
    threshold = float(reference[-count - 1])
    if threshold <= 0:
        return none
    slope = float((reference[-count:].double() / threshold).log().mean())
    return torch.tensor([threshold, 1.0 / max(slope, 1e-6), count / len(reference)], dtype=torch.float64)


def tail_p_values(reference: Tensor, scores: Tensor, tail: Tensor) -> Tensor:
    """`p_values`, but beyond the highest calibration scores on their tail (3,), see `tail_of`.

    Ranks cannot tell the highest score seen from one a thousand times as high. What this adds rests on the tail's
    shape, which no number of scores proves: it orders alarms and is calibrated once more, by episodes.
    """
    ranked = p_values(reference, scores)
    threshold, exponent, share = tail.tolist()
    if not threshold:
        return ranked
    high = scores.double()
    beyond = share * (high / threshold).clamp_min(1.0) ** -exponent
    return torch.where(high > threshold, torch.minimum(beyond, ranked), ranked)


def quantile(scores: Tensor, level: float) -> Tensor:
    """The ceil((n + 1) * level)-th smallest of scores (n, ...) along the first axis: (...), infinite where n is too
    small. A new score exchangeable with these is no higher with a chance of at least `level`.
    """
    check_level(level, "interval")
    rank = _rank(len(scores), level)
    if rank > len(scores):
        return scores.new_full(scores.shape[1:], math.inf)
    return scores.sort(dim=0).values[rank - 1]


def _rank(count: int, level: float) -> int:
    """Which of `count` ascending scores, from 1, bounds a new one with a chance of `level`; count + 1: none does."""
    return max(1, math.ceil((count + 1) * level - 1e-9))


def require_enough(count: int, level: float, what: str) -> None:
    """Raise DataError, saying how many are needed, where `count` calibration scores cannot give that level."""
    if count < needed(level):
        raise DataError(
            f"{what}: a level of {level:g} needs at least {needed(level)} calibration episodes, there are {count};"
            f" with these, {1 / (count + 1):.2g} is the lowest"
        )


@dataclass(frozen=True, kw_only=True)
class AdaptiveLevel:
    """Adaptive conformal inference (Gibbs & Candes 2021, arXiv 2106.00170, eq. 2): the level that keeps coverage
    when what is seen drifts away from what was calibrated on.

    target: share of misses wanted. current: level to use now; at or below 0 an interval covers everything, at or
    above 1 nothing. rate: how fast it follows. Over T steps the share of misses is within
    (max(first, 1 - first) + rate) / (T * rate) of the target, whatever happens.
    """

    target: float
    current: float
    rate: float = 0.02

    def __post_init__(self) -> None:
        check_level(self.target, "adaptive interval")
        if not 0 < self.rate <= 1:
            raise SpecError(f"adaptive interval: a rate in (0, 1] expected, got {self.rate!r}")

    @staticmethod
    def start(target: float, rate: float = 0.02) -> AdaptiveLevel:
        """As calibrated."""
        return AdaptiveLevel(target=target, current=target, rate=rate)

    def after(self, missed: bool) -> AdaptiveLevel:
        """The level for the next step."""
        return replace(self, current=self.current + self.rate * (self.target - float(missed)))

    def half_width(self, reference: Tensor) -> float:
        """Of an interval, from ascending calibration errors (n,): 0 or more, possibly infinite."""
        if self.current >= 1:
            return 0.0
        if self.current <= 0:
            return math.inf
        rank = _rank(len(reference), 1 - self.current)
        return math.inf if rank > len(reference) else float(reference[rank - 1])


@dataclass(frozen=True, kw_only=True)
class TrackedQuantile:
    """A bound on scores that follows each stream's own: after a score beyond it the bound rises by rate * (1 - target),
    after any other it falls by rate * target, so that in the long run a share `target` lies beyond, whatever comes
    (quantile tracking: Angelopoulos, Candes & Tibshirani 2023, "Conformal PID control for time series prediction",
    arXiv 2307.16895, eq. 4).

    current: of any shape, in the scores' units; never below 0. rate: how fast it follows, in the same units.
    """

    current: Tensor
    target: float
    rate: float

    def __post_init__(self) -> None:
        check_level(self.target, "tracked quantile")
        if not 0 < self.rate < math.inf:
            raise SpecError(f"tracked quantile: a positive rate expected, got {self.rate!r}")

    def after(self, scores: Tensor) -> TrackedQuantile:
        """With the scores of a step, of the same shape; NaN changes nothing."""
        moved = (self.current + self.rate * ((scores > self.current).to(self.current) - self.target)).clamp_min(0)
        return replace(self, current=torch.where(scores.isnan(), self.current, moved))
