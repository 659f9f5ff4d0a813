"""The recording journal: finished episodes, one record each, until they are gathered into the store's files."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from foretell.episodes.table import reading
from foretell.errors import DataError

NAME = "recording.journal"
GROUP = "group"
"""The part that names an episode's group, where it has one."""
_MAGIC = b"\x8bFTEP1\r\n"
_HEAD = struct.Struct("<8sII")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one episode lies in the journal. `parts`: by name, (first byte, bytes); `digest`: hash of them all."""

    index: int
    steps: int
    digest: str
    parts: dict[str, tuple[int, int]]


class Journal:
    """Appends episodes to a file so that each is durable, and whole or absent, when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        """Bytes held."""
        return sum(size for entry in self.entries for _, size in entry.parts.values())

    def append(self, index: int, steps: int, parts: Mapping[str, bytes]) -> Entry:
        """Add one episode. Raises OSError, with the journal as it was before, when it cannot be written."""
        if self._file is None:
            self._file = self.path.open("xb")
        before = self._file.tell()
        digest = digest_of(parts)
        sizes = {name: len(part) for name, part in parts.items()}
        header = json.dumps({"index": index, "steps": steps, "digest": digest, "sizes": sizes}).encode()
        try:
            self._file.write(_HEAD.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
            for part in parts.values():
                self._file.write(part)
            self._file.flush()
            os.fdatasync(self._file.fileno()) if hasattr(os, "fdatasync") else os.fsync(self._file.fileno())
        except OSError:
            self._undo(before)
            raise
        entry = _entry(index, steps, digest, sizes, before + _HEAD.size + len(header))
        self.entries.append(entry)
        return entry

    def clear(self) -> None:
        """Drop all episodes; readers that hold the old file keep it."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self.path.unlink()
        self.entries = []

    def close(self) -> None:
        """Release the file, leaving it where it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _undo(self, length: int) -> None:
        # A failed flush leaves bytes in the buffer that closing would try to write again: detach from them.
        assert self._file is not None
        descriptor = os.dup(self._file.fileno())
        try:
            os.ftruncate(descriptor, length)
            try:
                self._file.close()
            except OSError:
                os.ftruncate(descriptor, length)
        finally:
            os.close(descriptor)
        self._file = self.path.open("r+b")
        self._file.seek(length)


def digest_of(parts: Mapping[str, bytes]) -> str:
    """A hash of an episode's parts, the same wherever it is kept."""
    digest = hashlib.blake2b(digest_size=16)
    for name, part in parts.items():
        digest.update(f"{name}:{len(part)};".encode())
        digest.update(part)
    return digest.hexdigest()


class JournalReader:
    """The whole episodes of a journal; what a crash left unfinished at its end is not listed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            self._data = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else pa.py_buffer(b"")
        self.entries = self._scan()

    def part(self, entry: Entry, name: str) -> bytes:
        """One part of an episode."""
        start, size = entry.parts[name]
        part: bytes = self._data.slice(start, size).to_pybytes()
        return part

    def group(self, entry: Entry) -> str:
        """The group of an episode, "" where it has none."""
        return self.part(entry, GROUP).decode() if GROUP in entry.parts else ""

    def table(self, entry: Entry) -> pa.Table:
        """An episode's table; DataError if it is damaged."""
        start, size = entry.parts["table"]
        with reading(self.path):
            return pa.ipc.open_stream(self._data.slice(start, size)).read_all()

    def _scan(self) -> list[Entry]:
        data = memoryview(self._data)
        entries: list[Entry] = []
        at = 0
        while at + _HEAD.size <= len(data):
            magic, length, crc = _HEAD.unpack_from(data, at)
            header = bytes(data[at + _HEAD.size : at + _HEAD.size + length])
            if magic != _MAGIC or len(header) != length or zlib.crc32(header) != crc:
                break
            fields = json.loads(header)
            entry = _entry(**fields, start=at + _HEAD.size + length)
            end = entry.parts["table"][0] + sum(fields["sizes"].values())
            if end > len(data):
                break
            entries.append(entry)
            at = end
        if bytes(data[at + 1 :]).find(_MAGIC) >= 0:
            raise DataError(f"{self.path}: damaged at byte {at}, with whole episodes after it")
        # A power cut can leave the last record at its full length without its content.
        if entries and digest_of({name: self.part(entries[-1], name) for name in entries[-1].parts}) != (
            entries[-1].digest
        ):
            entries.pop()
        return entries


def _entry(index: int, steps: int, digest: str, sizes: Mapping[str, int], start: int) -> Entry:
    parts = {}
    for name, size in sizes.items():
        parts[name] = (start, size)
        start += size
    return Entry(index=index, steps=steps, digest=digest, parts=parts)
