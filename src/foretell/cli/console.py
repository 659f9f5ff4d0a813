"""What commands print: progress on standard error, tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

T = TypeVar("T")


def rank() -> int:
    """Which of the processes that torchrun started this is; 0, the one that speaks, without torchrun."""
    place = os.environ.get("RANK", "")
    return int(place) if place.isdigit() and "WORLD_SIZE" in os.environ else 0


def progress_console() -> Console:
    """A console on standard error, where progress and notes go; quiet in all processes but the first."""
    return Console(stderr=True, highlight=False, quiet=rank() > 0)


def track(items: Iterable[T], what: str, total: int | None, console: Console) -> Iterator[T]:
    """The items, one by one, behind a bar with count, rate and time left; no bar where nobody watches."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=what)


def table(title: str, *columns: str) -> Table:
    """An empty table in the house style; columns whose name ends in '>' are aligned to the right."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return made


def show_notice(notice: str, console: Console) -> None:
    """What is to stand above every answer about a world, if anything."""
    if notice:
        console.print(notice, style="bold", markup=False, soft_wrap=True)


def size(count: int) -> str:
    """A number of bytes for people: 1234567 is '1.2 MB'."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def number(value: float | None) -> str:
    """A number for people, at most 6 digits where it is not whole; '-' for none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def plain(value: Any) -> Any:
    """The same value as JSON can hold it: paths as text, arrays as lists, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object, on one line of standard output."""
    sys.stdout.write(json.dumps(plain(value), allow_nan=False) + "\n")
    sys.stdout.flush()
