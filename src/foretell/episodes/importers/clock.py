"""Times of a table's rows: read with their type kept, checked for order, and placed on a grid of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foretell.episodes.importers.columns import numbers
from foretell.errors import DataError

TimeUnit = Literal["h", "min", "s", "ms", "us", "ns"]
PER_SECOND: dict[TimeUnit, float] = {"h": 1 / 3600, "min": 1 / 60, "s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST_EMPTY = 1000
"""Grid steps per row above which the grid is taken for a mistake in `hz` or in the unit of time."""


def read_times(path: Path, column: str, row: int, array: Any) -> tuple[NDArray[Any], TimeUnit | None]:
    """Times as numbers, and their unit where the column says it: dates become int64 ticks (text: nanoseconds).

    Raises DataError, naming row and column, for a missing time or one that is neither number nor date.
    """
    where = f"{path}: column {column}"
    if array.null_count:
        at = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{where}, row {row + at}: the time is missing")
    unit: TimeUnit | None = None
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        dates = _dates(pc.utf8_trim_whitespace(array))
        array, unit = (array, None) if dates is None else (dates, "ns")
    elif pa.types.is_timestamp(array.type):
        unit = array.type.unit
    elif pa.types.is_date(array.type):
        array, unit = array.cast(pa.timestamp("s")), "s"
    if unit is not None:
        return array.cast(pa.timestamp(unit)).cast(pa.int64()).to_numpy(zero_copy_only=False), unit
    values, missing = numbers(path, column, row, array)
    if missing.any():
        raise DataError(f"{where}, row {row + int(np.argmax(missing))}: the time is missing")
    return values, None


def check_order(times: NDArray[Any], where: str, row: int) -> None:
    """Raise DataError unless every time is later than the one before; `row` is the number of the first."""
    wrong = np.flatnonzero(times[1:] <= times[:-1])
    if wrong.size:
        at = int(wrong[0])
        before, now = times[at], times[at + 1]
        what = f"time {now} comes twice" if before == now else f"time {now} comes after {before}"
        raise DataError(f"{where}, row {row + at + 1}: {what}; the times of an episode must increase")


def place(times: NDArray[Any], hz: float, per_second: float, where: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Step of each row on the grid of `hz` that starts at the first, (rows,), and the times of all steps, (steps,).

    Rows keep their own times; steps without a row get the grid's. DataError where two rows fall into one step.
    """
    # Differences first: absolute ticks as float64 would be rounded.
    steps = np.rint((times - times[0]).astype(np.float64) * hz / per_second).astype(np.int64)
    same = np.flatnonzero(steps[1:] == steps[:-1])
    if same.size:
        at = int(same[0])
        raise DataError(
            f"{where}: times {times[at]} and {times[at + 1]} fall into one step of {hz:g} Hz; raise hz, or drop it"
            " to keep the rows as they are"
        )
    count = int(steps[-1]) + 1
    if count > _MOST_EMPTY * len(times):
        raise DataError(
            f"{where}: {len(times)} rows from time {times[0]} to {times[-1]} would fill {count} steps of {hz:g} Hz;"
            " check hz and the unit of time"
        )
    offsets = np.arange(count) * (per_second / hz)
    if times.dtype.kind in "iu":
        offsets = np.rint(offsets)
    grid = (times[0] + offsets.astype(times.dtype)).astype(times.dtype)
    grid[steps] = times
    return steps, grid


def _dates(text: Any) -> Any | None:
    """Nanosecond timestamps of ISO 8601 text, with or without a zone; None where some of it is not."""
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None
