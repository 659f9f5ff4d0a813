"""A ledger of what was asked and answered: lines that each hold the hash of the one before, so that none can be changed
or left out unnoticed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foretell.errors import DataError

_FIRST = "0" * 64


class Ledger:
    """A file of JSON lines; each is on the disk before `append` returns. What is written must identify nobody.

    An unfinished last line, of a process that died while it wrote, is cut off by the next `append`. Several processes
    may append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, asked: Mapping[str, Any], answered: Mapping[str, Any]) -> str:
        """Add an entry; its hash. Raises DataError where the ledger was tampered with."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            number, last, whole = deque([(0, _FIRST, 0), *_checked(file.read(), self.path)], maxlen=1)[0]
            file.truncate(whole)
            entry = {
                "number": number + 1,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "asked": dict(asked),
                "answered": dict(answered),
                "before": last,
            }
            line = {**entry, "hash": _hash(entry)}
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return str(line["hash"])

    def verify(self) -> int:
        """How many entries it has; DataError, naming the first wrong line, where one was changed or left out.

        Who can write the whole file can write another; keep the last hash elsewhere to notice that, too.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such ledger") from error
        return max((number for number, _, _ in _checked(content, self.path)), default=0)


def _checked(content: bytes, path: Path) -> Iterator[tuple[int, str, int]]:
    """Number, hash, and the place of the end of each whole line, in order; DataError at one that is wrong."""
    before, end = _FIRST, 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            entry = json.loads(line)
            told = entry.pop("hash")
            right = (entry["number"], entry["before"], told) == (number, before, _hash(entry))
        except (ValueError, KeyError, TypeError, AttributeError):
            right = False
        if not right:
            raise DataError(f"{path}: line {number} is not what was written; the ledger was changed")
        before, end = str(told), end + len(line)
        yield number, before, end


def _hash(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, allow_nan=False).encode()).hexdigest()
