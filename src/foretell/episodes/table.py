"""Columns: arrays to Arrow and back, and files that are either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foretell.errors import DataError


def to_arrow(values: NDArray[Any]) -> pa.Array:
    """(n, F) to one value (F = 1) or a fixed list per row, (n, F, L) to nested lists; types are kept."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1 or values.shape[1:] == (1,):
        return flat
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    rows, fields, samples = values.shape
    inner = pa.ListArray.from_arrays(pa.array(np.arange(rows * fields + 1, dtype=np.int32) * samples), flat)
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * fields), inner)


def from_arrow(column: pa.ChunkedArray, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """The inverse of `to_arrow`: (n, *shape). Nulls become NaN; DataError where rows have other sizes."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    rows = len(array)
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        if array.null_count:
            row = int(np.flatnonzero(array.is_null())[0])
            raise DataError(f"{where}: {shape} numbers expected in each row, got none in row {row}")
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False)
    if values.size != rows * int(np.prod(shape)) or values.dtype.kind not in "fiub":
        raise DataError(
            f"{where}: {rows} rows of {shape} numbers expected, got {values.size} values of type {array.type}"
        )
    shaped: NDArray[Any] = values.reshape(rows, *shape)
    return shaped


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is read into one DataError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or _line(error)}") from error
    except (pa.ArrowException, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged or not what it should be ({_line(error)})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError where there is none."""
    with reading(path):
        text = path.read_text("utf-8")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, and nesting as deep, included
        raise DataError(f"{path}: damaged or not what it should be ({_line(error)})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: a JSON object expected, got {type(data).__name__}")
    return data


def check_parquet(path: Path) -> None:
    """Raise DataError unless `path` begins and ends as a parquet file does; cheap."""
    with reading(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        first = file.read(4)
        file.seek(max(0, size - 8))
        last = file.read(8)
    if first != b"PAR1" or last[4:] != b"PAR1" or int.from_bytes(last[:4], "little") + 12 > size:
        raise DataError(f"{path}: truncated or not a parquet file")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it at `path` in one step that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk is noticed where the file's name is not known any more.
            error.filename = str(path)
        raise


def write_json(path: Path, data: object) -> None:
    """Write JSON whole."""
    text = json.dumps(data, indent=2, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text + "\n", "utf-8"))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a small table as parquet, whole."""
    write_whole(path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True))


def sync_folder(path: Path) -> None:
    """Make renames inside `path` durable, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
