"""Imports CSV and Parquet tables: one row per step, columns for episode, time, observations and actions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foretell.episodes.importers.clock import PER_SECOND, TimeUnit, check_order, place, read_times
from foretell.episodes.importers.columns import SUFFIXES, Table, cast, numbers, widest
from foretell.episodes.importers.source import Source
from foretell.errors import DataError, SpecError
from foretell.spec import ActionSpec, Channel, Episode, Spec


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Which columns of a table mean what.

    episode: the column that tells episodes apart (None: a file is one episode); its rows stand together.
    group: the column that says whom or what an episode is about (`Episode.group`), the same in all of its rows.
    time: the column of times, numbers in `time_unit` or dates (None: rows are steps in order).
    observations, quantities: columns of each vector channel. Observations None: all columns not named
    otherwise, as one channel `state`. actions: `actions` of a row move it to the next one; the last row's
    are not read. exogenous: those among them that nobody chooses. units: by column. bounds: lowest and
    highest value by action column.
    hz: steps per second. With times, rows are placed on the nearest step of that grid and steps without
    a row are masked; without it, rows stay as they are and hz is that of the median time between rows.
    Raises SpecError where a column has two roles.
    """

    episode: str | None = None
    group: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "s"
    observations: Mapping[str, Sequence[str]] | None = None
    quantities: Mapping[str, Sequence[str]] = field(default_factory=dict)
    actions: Sequence[str] = ()
    exogenous: Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    hz: float | None = None

    def __post_init__(self) -> None:
        columns = self.named
        for name in columns:
            if columns.count(name) > 1:
                raise SpecError(f"column {name!r} has two roles; name it once")
        if self.hz is not None and not (math.isfinite(self.hz) and self.hz > 0):
            raise SpecError(f"hz: a positive number of steps per second expected, got {self.hz}")
        for what in ("bounds", "exogenous"):
            for name in getattr(self, what):
                if name not in self.actions:
                    raise SpecError(f"{what}: {name!r} is not an action; the actions are {list(self.actions)}")

    @property
    def named(self) -> list[str]:
        """Every column that has been given a role."""
        groups = [c for group in (self.observations or {}, self.quantities) for cs in group.values() for c in cs]
        return [c for c in (self.episode, self.group, self.time) if c is not None] + groups + list(self.actions)


@dataclass(frozen=True)
class Rows:
    """One episode's rows. values and missing: by column, (rows,). times: (rows,) or None. first: number of row 0."""

    path: Path
    episode: str | None
    group: str
    first: int
    values: dict[str, NDArray[Any]]
    missing: dict[str, NDArray[np.bool_]]
    times: NDArray[Any] | None

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def where(self) -> str:
        """The place to name in errors."""
        return f"{self.path}" if self.episode is None else f"{self.path}: episode {self.episode}"


@dataclass(frozen=True)
class TableReader:
    """Tables of one layout, opened: the columns of each channel, and the types found by a first pass."""

    tables: tuple[Table, ...]
    options: TableOptions
    observations: dict[str, tuple[str, ...]]
    dtypes: dict[str, np.dtype[Any]]
    time_unit: TimeUnit
    time_dtype: np.dtype[Any] | None
    seconds: float | None
    """Median time between rows, None without times."""

    def spec(self, hz: float, cameras: Sequence[Channel] = ()) -> Spec:
        """The spec of these columns, after the given image channels."""
        options = self.options
        unknown = options.units.keys() - {*self._columns(), *options.actions}
        if unknown:
            raise SpecError(f"units: {min(unknown)!r} is not among the columns to import")
        bounds = [options.bounds.get(name, (-math.inf, math.inf)) for name in options.actions]
        return Spec(
            observations=(*cameras, *self._channels(self.observations)),
            quantities=self._channels(options.quantities),
            action=ActionSpec(
                names=tuple(options.actions),
                units=tuple(options.units.get(name, "") for name in options.actions),
                low=tuple(low for low, _ in bounds),
                high=tuple(high for _, high in bounds),
                exogenous=tuple(options.exogenous),
            ),
            hz=hz,
        )

    def rows(self) -> Iterator[Rows]:
        """Each episode's rows, one episode in memory at a time; DataError where they are not in order."""
        seen: set[tuple[Path, str | None]] = set()
        for table in self.tables:
            for rows in self._rows_of(table):
                key = (table.path, rows.episode)
                if key in seen:
                    raise DataError(
                        f"{rows.where}: its rows do not stand together (they go on at row {rows.first});"
                        " sort the table by episode and time"
                    )
                seen.add(key)
                if rows.times is not None:
                    check_order(rows.times, rows.where, rows.first)
                yield rows

    def vectors(
        self, rows: Rows, steps: NDArray[np.int64], count: int
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.bool_]]]:
        """Every vector channel and its mask, (count, F); row i stands at steps[i], other steps are masked."""
        observations, valid = {}, {}
        for name, columns in {**self.observations, **self.options.quantities}.items():
            dtype = self._dtype(columns)
            values = np.zeros((count, len(columns)), dtype)
            mask = np.zeros((count, len(columns)), np.bool_)
            for i, column in enumerate(columns):
                values[steps, i] = cast(rows.values[column], dtype, f"{rows.where}, column {column}")
                mask[steps, i] = ~rows.missing[column]
            observations[name] = values
            if not mask.all():
                valid[name] = mask
        return observations, valid

    def actions(self, rows: Rows, count: int) -> NDArray[Any]:
        """The first `count` rows' actions, (count, A); DataError where one is missing."""
        names = self.options.actions
        dtype = self._dtype(names) if names else np.dtype(np.float32)
        made = np.zeros((count, len(names)), dtype)
        for i, name in enumerate(names):
            missing = rows.missing[name][:count]
            if missing.any():
                at = rows.first + int(np.argmax(missing))
                raise DataError(f"{rows.where}, row {at}: action {name} is missing or NaN; an action must be known")
            made[:, i] = cast(rows.values[name][:count], dtype, f"{rows.where}, column {name}")
        return made

    def _columns(self) -> list[str]:
        groups = (*self.observations.values(), *self.options.quantities.values())
        return [column for group in groups for column in group]

    def _channels(self, groups: Mapping[str, Sequence[str]]) -> tuple[Channel, ...]:
        units = self.options.units
        return tuple(
            Channel(
                name=name,
                kind="vector",
                shape=(len(columns),),
                fields=tuple(columns),
                units=tuple(units.get(c, "") for c in columns),
            )
            for name, columns in groups.items()
        )

    def _dtype(self, columns: Sequence[str]) -> np.dtype[Any]:
        found: np.dtype[Any] | None = None
        for column in columns:
            found = widest(found, self.dtypes[column], f"{self.tables[0].path}: column {column}")
        assert found is not None
        return found

    def _rows_of(self, table: Table) -> Iterator[Rows]:
        options = self.options
        wanted = [*self._columns(), *options.actions]
        columns = [*wanted, *(c for c in (options.episode, options.group, options.time) if c is not None)]
        parts: list[Rows] = []
        for row, batch in table.batches(columns):
            read = {name: numbers(table.path, name, row, batch[name]) for name in wanted}
            times = self._times(table, row, batch)
            for start, stop, episode in _runs(table, options.episode, row, batch):
                if parts and parts[0].episode != episode:
                    yield _join(parts)
                    parts = []
                parts.append(
                    Rows(
                        table.path,
                        episode,
                        _group_of(table, options.group, row, batch, start, stop),
                        row + start,
                        {name: values[start:stop] for name, (values, _) in read.items()},
                        {name: missing[start:stop] for name, (_, missing) in read.items()},
                        None if times is None else times[start:stop],
                    )
                )
        if parts:
            yield _join(parts)

    def _times(self, table: Table, row: int, batch: dict[str, Any]) -> NDArray[Any] | None:
        if self.options.time is None or self.time_dtype is None:
            return None
        values, _ = read_times(table.path, self.options.time, row, batch[self.options.time])
        return cast(values, self.time_dtype, f"{table.path}, column {self.options.time}")


def open_tables(paths: Sequence[Path], options: TableOptions) -> TableReader:
    """Open tables of one layout and find their types in a first pass over them.

    Raises DataError, naming file, row and column, for a column that is not there or not of numbers.
    """
    tables = tuple(Table(path) for path in paths)
    observations = options.observations
    if observations is None:
        rest = tuple(name for name in tables[0].names if name not in options.named)
        observations = {"state": rest} if rest else {}
    resolved = {name: tuple(columns) for name, columns in observations.items()}
    wanted = [c for group in (*resolved.values(), *options.quantities.values(), options.actions) for c in group]
    roles = {
        "--episode": [options.episode] if options.episode is not None else [],
        "--group": [options.group] if options.group is not None else [],
        "--time": [options.time] if options.time is not None else [],
        "--observations": [c for columns in resolved.values() for c in columns],
        "--quantities": [c for columns in options.quantities.values() for c in columns],
        "--actions": list(options.actions),
    }
    dtypes: dict[str, np.dtype[Any]] = {}
    for table in tables:
        for role, columns in roles.items():
            table.require(columns, role)
        for name, dtype in table.dtypes(wanted).items():
            dtypes[name] = widest(dtypes.get(name), dtype, f"{table.path}: column {name}")
    unit, time_dtype, seconds = _scan_times(tables, options)
    return TableReader(tables, options, resolved, dtypes, unit, time_dtype, seconds)


def import_table(path: Path, options: TableOptions) -> Source:
    """A CSV, TSV or Parquet file, or a folder of them, as episodes of vectors.

    Raises DataError or SpecError naming file, row or episode, and column; see `TableOptions` for the rules.
    """
    paths = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{path}: a folder with {', '.join(SUFFIXES)} files expected, got none")
    reader = open_tables(paths, options)
    if not reader.observations:
        raise DataError(f"{paths[0]}: no column is left to observe; name some with --observations")
    hz = options.hz or (1.0 / reader.seconds if reader.seconds else 1.0)
    spec = reader.spec(hz)
    metadata: dict[str, Any] = {"source": path.name, "format": "table"}
    if options.time is not None:
        metadata["time_unit"] = reader.time_unit
    return Source(spec=spec, episodes=_episodes(reader), metadata=metadata)


def _episodes(reader: TableReader) -> Iterator[Episode]:
    empty = True
    for rows in reader.rows():
        empty = False
        yield _episode(reader, rows)
    if empty:
        raise DataError(f"{reader.tables[0].path}: the table has no rows")


def _episode(reader: TableReader, rows: Rows) -> Episode:
    hz, times = reader.options.hz, rows.times
    steps: NDArray[np.int64] = np.arange(len(rows))
    if hz is not None and times is not None:
        steps, grid = place(times, hz, PER_SECOND[reader.time_unit], rows.where)
        if reader.options.actions and len(grid) != len(rows):
            at = int(np.argmax(np.diff(steps) > 1))
            raise DataError(
                f"{rows.where}: no action is known between times {times[at]} and {times[at + 1]}"
                f" (steps {steps[at]} and {steps[at + 1]} of {hz:g} Hz), and actions are never filled in; drop --hz"
                " to keep the rows as they are, or import these columns as observations"
            )
        times = grid
    count = int(steps[-1]) + 1
    observations, valid = reader.vectors(rows, steps, count)
    actions = reader.actions(rows, count - 1) if reader.options.actions else np.zeros((count - 1, 0), np.float32)
    return Episode(observations=observations, actions=actions, valid=valid, times=times, group=rows.group)


def _scan_times(tables: Sequence[Table], options: TableOptions) -> tuple[TimeUnit, np.dtype[Any] | None, float | None]:
    """The unit and type of the times, and the median time between rows of an episode in seconds."""
    if options.time is None:
        return options.time_unit, None, None
    columns = [options.time] + ([options.episode] if options.episode is not None else [])
    dtype: np.dtype[Any] | None = None
    units: set[TimeUnit | None] = set()
    gaps = []
    for table in tables:
        for row, batch in table.batches(columns):
            if not len(batch[options.time]):
                continue
            times, unit = read_times(table.path, options.time, row, batch[options.time])
            units.add(unit)
            if len(units) > 1:
                raise DataError(f"{table.path}: column {options.time}, from row {row}: dates and numbers are mixed")
            dtype = widest(dtype, times.dtype, f"{table.path}: column {options.time}")
            gaps += [
                np.diff(times[start:stop]).astype(np.float64)
                for start, stop, _ in _runs(table, options.episode, row, batch)
            ]
    unit = (next(iter(units)) if units else None) or options.time_unit
    found = np.concatenate(gaps) if gaps else np.zeros(0)
    found = found[found > 0]
    return unit, dtype, float(np.median(found)) / PER_SECOND[unit] if found.size else None


def _runs(table: Table, column: str | None, row: int, batch: dict[str, Any]) -> Iterator[tuple[int, int, str | None]]:
    """Start, stop and name of each run of rows with one episode in a batch."""
    count = len(next(iter(batch.values())))
    if not count:
        return
    if column is None:
        yield 0, count, None
        return
    array = batch[column]
    if array.null_count:
        at = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{table.path}: column {column}, row {row + at}: the episode is missing")
    names = array.cast(pa.string()).to_numpy(zero_copy_only=False)
    edges = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), count]
    for start, stop in itertools.pairwise(edges):
        yield start, stop, str(names[start])


def _group_of(table: Table, column: str | None, row: int, batch: dict[str, Any], start: int, stop: int) -> str:
    """The one group of an episode's rows start..stop of a batch; "" where it is missing."""
    if column is None:
        return ""
    names = batch[column].cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)[start:stop]
    other = np.flatnonzero(names != names[0])
    if other.size:
        raise DataError(
            f"{table.path}: column {column}, row {row + start + int(other[0])}: one group in an episode expected,"
            f" got {names[0]!r}, then {names[other[0]]!r}"
        )
    return str(names[0])


def _join(parts: list[Rows]) -> Rows:
    first = parts[0]
    for part in parts:
        if part.group != first.group:
            raise DataError(
                f"{first.where}, row {part.first}: one group in an episode expected,"
                f" got {first.group!r}, then {part.group!r}"
            )
    return Rows(
        first.path,
        first.episode,
        first.group,
        first.first,
        {name: np.concatenate([p.values[name] for p in parts]) for name in first.values},
        {name: np.concatenate([p.missing[name] for p in parts]) for name in first.missing},
        None if first.times is None else np.concatenate([p.times for p in parts if p.times is not None]),
    )
