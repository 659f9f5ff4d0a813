"""The window cache: every channel of a store decoded once into flat files that windows map into memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from foretell.episodes.store import EpisodeStore
from foretell.episodes.table import read_json, sync_folder, write_json
from foretell.errors import DataError

_VERSION = 1
_INDEX = "index.json"
ACTION = "action"


class Cache:
    """Rows of all episodes of a store, one after the other, by channel; built on first use, shared by processes.

    Lives in `folder` (None: `.cache` inside the store) under the store's fingerprint, and is written under
    another name first, so that it is whole or not there.
    values: by channel and for `action`, (rows, *shape): images uint8, the rest float32, missing values zero;
    an episode's row of `action` after its last action is zero. valid: (rows,) or (rows, F) bool, of channels that
    miss something. starts: (episodes,) the first row of each.
    Raises DataError if it cannot be written or a file of the store is damaged, SpecError if an episode does not
    fit the store's spec.
    """

    def __init__(self, store: EpisodeStore, folder: Path | None = None) -> None:
        parent = store.path / ".cache" if folder is None else Path(folder)
        self.path = parent / store.fingerprint()
        rows = int(store.lengths.sum())
        self.starts: NDArray[np.int64] = np.cumsum(store.lengths) - store.lengths
        try:
            if not (self.path / _INDEX).exists():
                parent.mkdir(parents=True, exist_ok=True)
                with _alone(parent):
                    if not (self.path / _INDEX).exists():
                        _build(store, self.path, stale=folder is None)
        except OSError as error:
            raise DataError(
                f"{parent}: the window cache cannot be written: {error.strerror or error}; choose another --cache"
            ) from error
        index = read_json(self.path / _INDEX)
        if index.get("version") != _VERSION:
            raise DataError(f"{self.path}: a cache of another version; remove it")
        self.values: dict[str, NDArray[Any]] = {}
        self.valid: dict[str, NDArray[np.bool_]] = {}
        for channel in store.spec.channels:
            dtype = np.uint8 if channel.kind == "image" else np.float32
            self.values[channel.name] = self._map(channel.name, (rows, *channel.shape), dtype)
            if channel.name in index["gaps"]:
                fields = () if channel.kind == "image" else (channel.shape[0],)
                self.valid[channel.name] = self._map(f"{channel.name}.valid", (rows, *fields), np.bool_)
        self.values[ACTION] = self._map(ACTION, (rows, store.spec.action.size), np.float32)

    def lately(
        self,
        name: str,
        rows: NDArray[np.int64],
        first: NDArray[np.int64],
        look: int,
        *,
        length: int = 1,
        every: int = 1,
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A vector channel's last `look` rows up to each of `length` rows that lie `every` apart, the first of them at
        `rows` (B,): values and validity, (B, length, F, look).

        first: (B,) the first row of the episode; rows before it are not valid, and zero like all that are not.
        """
        # Most of what neighbours look back on is the same: gathered once, then copied.
        at = rows[:, None] + np.arange(1 - look, (length - 1) * every + 1)
        there = np.repeat((at >= first[:, None])[..., None], self.values[name].shape[1], -1)
        at = np.maximum(at, 0)
        if name in self.valid:
            there &= self.valid[name][at]
        values = np.where(there, self.values[name][at], np.float32(0))
        seen, known = (np.lib.stride_tricks.sliding_window_view(x, look, axis=1)[:, ::every] for x in (values, there))
        return np.ascontiguousarray(seen), np.ascontiguousarray(known)

    def _map(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        path = self.path / f"{name}.bin"
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not path.exists() or path.stat().st_size != size:
            raise DataError(f"{path}: {size} bytes expected; remove {self.path} and it is built again")
        if not size:
            return np.zeros(shape, dtype)
        # Copy on write: tensors over it must be writable in torch's eyes, and nothing may reach the file.
        return np.memmap(path, dtype, "c", shape=shape)


def _build(store: EpisodeStore, path: Path, *, stale: bool) -> None:
    if stale:
        for old in path.parent.iterdir():
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=".building-", dir=path.parent))
    try:
        gaps = _fill(store, made)
        write_json(made / _INDEX, {"version": _VERSION, "gaps": gaps})
        os.replace(made, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _fill(store: EpisodeStore, folder: Path) -> list[str]:
    """Write every channel; returns those that miss something."""
    gaps: set[str] = set()
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {
            name: stack.enter_context((folder / f"{name}.bin").open("wb"))
            for channel in store.spec.channels
            for name in (channel.name, f"{channel.name}.valid")
        }
        files[ACTION] = stack.enter_context((folder / f"{ACTION}.bin").open("wb"))
        for number, episode in enumerate(store):
            # The border that every value crosses on its way into a model, whoever wrote the store.
            episode.check(store.spec, f"{store.path}: episode {number}")
            steps = len(episode)
            for channel in store.spec.channels:
                values = episode.observations[channel.name]
                mask = episode.valid.get(channel.name)
                if mask is not None:
                    gaps.add(channel.name)
                    values = np.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values, 0)
                else:
                    mask = np.ones((steps,) if channel.kind == "image" else (steps, channel.shape[0]), np.bool_)
                dtype = np.uint8 if channel.kind == "image" else np.float32
                files[channel.name].write(np.ascontiguousarray(values, dtype).data)
                files[f"{channel.name}.valid"].write(np.ascontiguousarray(mask).data)
            actions = np.zeros((steps, store.spec.action.size), np.float32)
            actions[:-1] = episode.actions
            files[ACTION].write(actions.data if actions.size else b"")
    for channel in store.spec.channels:
        if channel.name not in gaps:
            (folder / f"{channel.name}.valid.bin").unlink()
    return sorted(gaps)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time builds in `folder`, where the system has file locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
