"""Columns of one CSV or Parquet file, read in batches: types kept, errors that name row and column."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foretell.errors import DataError

SUFFIXES = (".csv", ".tsv", ".parquet")
MISSING = ["", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "-nan", "null", "NULL", "None", "none"]
"""What a CSV file may write where a value is missing."""
_BLOCK = 16 << 20
_CELLS = 1 << 20


class Table:
    """A CSV, TSV or Parquet file whose columns are read in batches of rows; rows count from 1.

    Raises DataError for a file that is missing, empty, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: a table ends in {', '.join(SUFFIXES)}")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        self._parquet = path.suffix.lower() == ".parquet"
        with self._readable():
            self.names = tuple(pq.read_schema(path).names if self._parquet else self._csv([]).schema.names)
        twice = sorted({n for n in self.names if self.names.count(n) > 1})
        if twice:
            raise DataError(f"{path}: column names must differ, got {twice[0]!r} more than once")

    def require(self, columns: Sequence[str], role: str) -> None:
        """Raise DataError unless the file has each of these columns."""
        for name in columns:
            if name not in self.names:
                close = difflib.get_close_matches(name, self.names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                shown = ", ".join(self.names[:12]) + (", ..." if len(self.names) > 12 else "")
                raise DataError(f"{self.path}: no column {name!r} for {role}; it has {shown}{hint}")

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of the first row (from 1) and, per column, an arrow array of the rows of this batch."""
        row = 1
        with self._readable():
            reader = (
                pq.ParquetFile(self.path).iter_batches(
                    columns=list(columns), batch_size=max(64, _CELLS // len(columns))
                )
                if self._parquet
                else self._csv(columns)
            )
            for batch in reader:
                yield row, {name: batch.column(name) for name in columns}
                row += batch.num_rows

    def dtypes(self, columns: Sequence[str]) -> dict[str, np.dtype[Any]]:
        """The type that holds every value of each column; DataError where a column is not of numbers."""
        found: dict[str, np.dtype[Any] | None] = dict.fromkeys(columns)
        if self._parquet:
            empty = pq.read_schema(self.path).empty_table()
            for name in columns:
                found[name] = numbers(self.path, name, 1, empty.column(name).combine_chunks())[0].dtype
        else:
            for row, batch in self.batches(columns):
                for name, array in batch.items():
                    if array.null_count < len(array):
                        dtype = numbers(self.path, name, row, array)[0].dtype
                        found[name] = widest(found[name], dtype, f"{self.path}: column {name}")
        return {name: dtype or np.dtype(np.float64) for name, dtype in found.items()}

    def _csv(self, columns: Sequence[str]) -> Any:
        with self.path.open("rb") as file:
            header = file.readline(_BLOCK).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
        delimiter = max(",;\t", key=header.count)
        # Everything as text: pyarrow would guess types from the first block and fail, or round, further down.
        convert: dict[str, Any] = {"column_types": dict.fromkeys(columns, pa.string())}
        if columns:
            convert["include_columns"] = list(columns)
        return pa.csv.open_csv(
            self.path,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter),
            convert_options=pa.csv.ConvertOptions(
                null_values=MISSING, strings_can_be_null=True, quoted_strings_can_be_null=True, **convert
            ),
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError, OSError) as error:
            kind = "Parquet" if self._parquet else "CSV"
            raise DataError(f"{self.path}: not a whole {kind} file: {' '.join(str(error).split())[:200]}") from error


def numbers(path: Path, column: str, row: int, array: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values (zero where missing) and which of them are missing; `row` is the number of the first.

    Text becomes int64 where all of it is whole numbers, float64 else. NaN counts as missing.
    Raises DataError, naming row and column, for anything else and for infinity.
    """
    where = f"{path}: column {column}"
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = _from_text(where, row, pc.utf8_trim_whitespace(array))
    elif pa.types.is_decimal(array.type) or pa.types.is_null(array.type):
        array = array.cast(pa.float64())
    elif pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise DataError(f"{where}: numbers expected, got {array.type}; leave it out of the columns to import")
    missing = array.is_null().to_numpy(zero_copy_only=False)
    values = np.array(array.fill_null(0).to_numpy(zero_copy_only=False))
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
        values[missing] = 0
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values)))
            raise DataError(f"{where}, row {row + at}: a finite number expected, got {values[at]}")
    return values, missing


def cast(values: NDArray[Any], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """The values in another type; DataError where that would change one (integers beyond 2**53 as floats)."""
    made = values.astype(dtype)
    if values.dtype.kind in "iu" and dtype.kind == "f":
        for at in map(int, np.flatnonzero(np.abs(made) >= 2.0 ** (np.finfo(dtype).nmant + 1))):
            if int(made[at]) != int(values[at]):
                raise DataError(
                    f"{where}: the whole number {values[at]} does not fit {dtype}, the type of the values it"
                    " stands with; import that column as a channel of its own"
                )
    return made


def widest(one: np.dtype[Any] | None, other: np.dtype[Any], where: str) -> np.dtype[Any]:
    """The type that holds the values of both."""
    if one is None or one == other:
        return other
    made = np.result_type(one, other)
    if made.kind == "f" and one.kind in "iu" and other.kind in "iu":
        raise DataError(f"{where}: signed and unsigned 64-bit integers in one channel; import them as two")
    return made


def _from_text(where: str, row: int, array: Any) -> Any:
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        pass
    present = array.drop_null()
    if pc.all(pc.match_substring_regex(present, r"^[+-]?\d+$")).as_py():
        try:
            return array.cast(pa.uint64())
        except pa.ArrowInvalid:
            raise DataError(f"{where}: whole numbers of at most 64 bits expected") from None
    try:
        made = array.cast(pa.float64())
    except pa.ArrowInvalid:
        for at, text in enumerate(array.to_pylist()):
            if text is not None and not _is_number(text):
                raise DataError(f"{where}, row {row + at}: a number expected, got {text!r}") from None
        raise DataError(f"{where}: numbers expected from row {row} on") from None
    long = pc.fill_null(pc.match_substring_regex(array, r"^[+-]?\d{16,}$"), False)
    for at in map(int, np.flatnonzero(long.to_numpy(zero_copy_only=False))):
        if int(array[at].as_py()) != int(made[at].as_py()):
            raise DataError(
                f"{where}, row {row + at}: the whole number {array[at]} stands among fractions and does not fit float64"
            )
    return made


def _is_number(text: str) -> bool:
    try:
        pa.array([text]).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
