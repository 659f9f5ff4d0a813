"""A glucose sensor under the skin: correlated noise and stretches without a reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError

Array = NDArray[np.float64]
# Breton & Kovatchev 2008, "Analysis, modeling, and simulation of the accuracy of continuous glucose sensors" (J.
# Diabetes Sci. Technol. 2:853): an autoregressive process every 15 minutes, its marginal of Johnson's unbounded kind.
_MINUTES, _CORRELATION = 15, 0.7
_GAMMA, _LAMBDA, _DELTA, _XI = -0.5444, 15.9574, 1.6898, -5.47
LOWEST, HIGHEST = 39.0, 600.0
"""mg/dL that a sensor can show."""


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """noise: share of the noise of the sensors of 2008; today's err about half as much. lost: chance that a reading
    begins a stretch without any; stretch: mean length of these in readings. bias: mg/dL added to each reading.
    """

    noise: float = 0.5
    lost: float = 0.005
    stretch: float = 6.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value) or (value < 0 and field.name != "bias"):
                raise SpecError(f"glucose: {field.name} of the sensor must be 0 or more, got {value!r}")
        if self.lost > 1 or self.stretch < 1:
            raise SpecError(
                f"glucose: a chance of lost readings of at most 1 and stretches from 1 expected, got {self}"
            )

    def noises(self, rngs: Sequence[np.random.Generator], readings: int, minutes: int) -> Array:
        """(n, readings) mg/dL to add, a reading every so many minutes; a random stream for each sensor."""
        slow = (readings - 1) * minutes // _MINUTES + 2
        found = np.empty((len(rngs), readings))
        at = np.arange(readings) * minutes / _MINUTES
        for i, rng in enumerate(rngs):
            drawn = rng.standard_normal(slow)
            e = np.empty(slow)
            e[0] = drawn[0] * np.sqrt(_CORRELATION**2 / (1 - _CORRELATION**2))
            for k in range(1, slow):
                e[k] = _CORRELATION * (e[k - 1] + drawn[k])
            found[i] = np.interp(at, np.arange(slow), _XI + _LAMBDA * np.sinh((e - _GAMMA) / _DELTA))
        return self.noise * found

    def there(self, rngs: Sequence[np.random.Generator], readings: int) -> NDArray[np.bool_]:
        """(n, readings) whether a reading comes; the first always does."""
        found = np.ones((len(rngs), readings), np.bool_)
        for i, rng in enumerate(rngs):
            begins = np.flatnonzero(rng.random(readings) < self.lost)
            lengths = rng.geometric(1 / self.stretch, len(begins))
            for first, length in zip(begins, lengths, strict=True):
                found[i, first : first + length] = False
        found[:, 0] = True
        return found

    def reads(self, glucose: Array, noise: Array) -> Array:
        """What is shown at mg/dL under the skin and with that noise, any shape."""
        return np.asarray(np.clip(glucose + noise + self.bias, LOWEST, HIGHEST))
