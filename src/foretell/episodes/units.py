"""Units mixed up: values that do not fit what a model learned from, but would in another unit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foretell.errors import DataError
from foretell.spec import Episode, Spec

_CONVERSIONS: tuple[tuple[str, str, float, float], ...] = (
    ("mmol/L of glucose", "mg/dL", 18.016, 0.0),
    ("degrees Celsius", "degrees Fahrenheit", 1.8, 32.0),
    ("degrees Celsius", "kelvin", 1.0, 273.15),
    ("radians", "degrees", 180 / np.pi, 0.0),
    ("kilograms", "pounds", 2.20462, 0.0),
    ("hours or minutes", "minutes or seconds", 60.0, 0.0),
    ("a share", "percent", 100.0, 0.0),
    ("a unit", "its thousandth", 1000.0, 0.0),
)
_FEWEST = 12


def mixed_up(values: NDArray[np.float64], mean: float, spread: float) -> str | None:
    """What values (n,) seem to be given in, if they lie more than two spreads from the mean that was learned from, and
    would lie within one, spread out like these, in another unit; None where they would not, or are few.
    """
    if len(values) < _FEWEST or not spread > 0:
        return None
    middle, width = float(np.median(values)), float(values.std())
    if abs(middle - mean) <= 2 * spread:
        return None
    found = []
    for smaller, larger, factor, offset in _CONVERSIONS:
        for name, into, f, o in (
            (smaller, larger, factor, offset),
            (larger, smaller, 1 / factor, -offset / factor),
        ):
            away = abs(middle * f + o - mean) / spread
            if away < 1 and 1 / 3 < width * f / spread < 3:
                found.append((away, f"{name} instead of {into}"))
    return min(found)[1] if found else None


def require_units(
    spec: Spec, episode: Episode, learned: dict[str, tuple[list[float], list[float]]], where: str
) -> None:
    """Raise DataError, naming `where` and the field, where a vector of an episode seems to be given in another unit.

    learned: mean and spread of the fields of each channel, as the model was trained.
    """
    for channel in spec.observations:
        if channel.kind != "vector" or channel.name not in learned:
            continue
        for k, values in enumerate(_valid(episode, channel.name)):
            mean, spread = (each[k] for each in learned[channel.name])
            told = mixed_up(values, mean, spread)
            if told is not None:
                unit = f" {channel.units[k]}" if channel.units[k] else ""
                raise DataError(
                    f"{where}: channel {channel.name}, field {channel.fields[k]}: values around {np.median(values):.3g}"
                    f" where {mean:.3g}{unit} were learned from; {told}? Convert them first"
                )


def _valid(episode: Episode, name: str) -> Iterator[NDArray[np.float64]]:
    values = np.asarray(episode.observations[name], np.float64)
    mask = episode.valid.get(name, np.ones(len(values), np.bool_))
    there = np.broadcast_to(mask.reshape(len(values), -1), values.shape)
    return (x[m] for x, m in zip(values.T, there.T, strict=True))
