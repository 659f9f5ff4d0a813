"""95% intervals: Wilson's for shares, the bootstrap over episodes for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import SpecError

Interval = tuple[float, float]
Array = NDArray[np.float64]


def wilson(successes: int, count: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927, "Probable inference, the law of succession").

    Holds its level for shares near 0 and 1 and few trials, where the textbook interval does not.
    Raises SpecError unless 0 <= successes <= count, count >= 1 and 0 < level < 1.
    """
    if not (0 <= successes <= count and count >= 1 and 0 < level < 1):
        raise SpecError(
            f"interval: 0 <= successes <= count, count >= 1 and a level between 0 and 1 expected,"
            f" got {successes} of {count} at {level}"
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return low, high


def bootstrap(
    values: ArrayLike,
    rng: np.random.Generator,
    *,
    statistic: Callable[[Array], Array] = lambda drawn: drawn.mean(axis=1),
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Percentile bootstrap interval (Efron 1979) over the first axis, whose entries must be independent.

    values: (n, ...), one entry per episode. statistic: (draws, n, ...) resampled values -> (draws, ...).
    Returns low and high, (...). Raises SpecError for no values, no draws or a level outside (0, 1).
    """
    found = np.asarray(values, np.float64)
    if found.ndim < 1 or len(found) < 1 or draws < 1 or not 0 < level < 1:
        raise SpecError(
            f"interval: values of shape (n, ...) with n >= 1, at least one draw and a level between 0 and 1"
            f" expected, got shape {found.shape}, {draws} draws, level {level}"
        )
    drawn = statistic(found[rng.integers(0, len(found), (draws, len(found)))])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)
