"""Reads ranges of rows from the parquet files of a store, one file and a few row groups at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foretell.episodes.table import reading
from foretell.errors import DataError

_AHEAD = 8 * 2**20
"""Bytes read at once when episodes are read in order."""


class RowReader:
    """Rows by file, columns and range; remembers what it read last, since episodes are mostly read in order."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: pq.ParquetFile = None
        self._bounds: NDArray[np.int64] = np.zeros(1, np.int64)
        self._columns: tuple[str, ...] = ()
        self._span = (0, 0)
        self._table: pa.Table = None
        self._episodes: NDArray[np.int64] | None = None

    def rows(self, path: Path, columns: Sequence[str], start: int, stop: int) -> pa.Table:
        """Rows start..stop of the columns; DataError if the file is damaged or has not got them."""
        self._open(path)
        low, high = self._span
        wanted = tuple(columns)
        if self._table is None or wanted != self._columns or start < low or stop > high:
            ahead = self._table is not None and wanted == self._columns and start == high
            self._load(path, wanted, start, stop, ahead)
            low, high = self._span
        return self._table.slice(start - low, stop - start)

    def episode_range(self, path: Path, episode: int) -> tuple[int, int]:
        """First row of an episode and the row after its last, by the column `episode_index`."""
        self._open(path)
        if self._episodes is None:
            with reading(path):
                self._episodes = self._file.read(columns=["episode_index"], use_threads=False).column(0).to_numpy()
        rows = np.flatnonzero(self._episodes == episode)
        if not len(rows) or rows[-1] - rows[0] + 1 != len(rows):
            raise DataError(f"{path}: rows of episode {episode} expected in one piece, got {len(rows)} rows")
        return int(rows[0]), int(rows[-1]) + 1

    def _open(self, path: Path) -> None:
        if path == self._path:
            return
        self._path, self._table, self._episodes = None, None, None
        with reading(path):
            self._file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
            metadata = self._file.metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._bounds = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
            self._bytes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        self._path = path

    def _load(self, path: Path, columns: tuple[str, ...], start: int, stop: int, ahead: bool) -> None:
        if stop > self._bounds[-1]:
            raise DataError(f"{path}: {stop} rows expected, got {self._bounds[-1]}")
        missing = [c for c in columns if c not in self._file.schema_arrow.names]
        if missing:
            raise DataError(f"{path}: column {missing[0]} is missing")
        first = int(np.searchsorted(self._bounds, start, "right")) - 1
        last = int(np.searchsorted(self._bounds, stop, "left"))
        if ahead:
            room = _AHEAD - sum(self._bytes[first:last])
            while last < len(self._bytes) and room > self._bytes[last]:
                room -= self._bytes[last]
                last += 1
        with reading(path):
            table = self._file.read_row_groups(list(range(first, last)), columns=list(columns), use_threads=False)
            self._table = table.select(list(columns)).combine_chunks()
        self._columns, self._span = columns, (int(self._bounds[first]), int(self._bounds[last]))
