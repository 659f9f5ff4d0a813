"""Windows: stretches of episodes of fixed length, gathered into batches from the memory-mapped cache."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.episodes.batch import Batch
from foretell.episodes.cache import ACTION, Cache
from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError, SpecError

_ROUNDS = 6
_POOL = 3
_COMPANIONS = np.uint64(0x636F6D70616E7921)
"""Keeps the draws within an episode apart from the order of the windows."""


class Windows:
    """Every window of `length` latent steps, `block` raw steps apart, that fits inside an episode of the store.

    A window spans (length - 1) * block + 1 raw steps; windows start at every raw step. episodes: those to use
    (None: all). look: raw steps, up to that of each latent step, that vectors among the observations come with.
    cache: folder for the cache (None: inside the store); as an attribute, the cache itself.
    Raises DataError if no episode is long enough, SpecError for a length, block or look below 1.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        length: int,
        block: int = 1,
        look: int = 1,
        episodes: Sequence[int] | None = None,
        cache: Path | None = None,
    ) -> None:
        if min(length, block, look) < 1:
            raise SpecError(f"windows need a length, block and look of at least 1, got {length}, {block} and {look}")
        self.store, self.length, self.block, self.look = store, length, block, look
        self.span = (length - 1) * block + 1
        chosen = np.arange(len(store)) if episodes is None else np.asarray(list(episodes), np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(store)):
            raise DataError(f"{store.path}: episodes 0 to {len(store) - 1} expected, got {chosen.max()}")
        counts = np.maximum(store.lengths[chosen] - self.span + 1, 0)
        if not counts.sum():
            longest = int(store.lengths[chosen].max(initial=0))
            raise DataError(
                f"{store.path}: a window of {length} steps, {block} apart, needs episodes of at least {self.span}"
                f" steps; the longest of {len(chosen)} has {longest}"
            )
        self.cache = Cache(store, cache)
        self._ends = np.cumsum(counts)
        self._offsets = self.cache.starts[chosen] - (self._ends - counts)
        self._episodes = chosen
        self._looking = [c.name for c in store.spec.observations if c.kind == "vector" and look > 1]
        alone = self.cache.values.keys() - {ACTION, *self._looking}
        self._gathers = {n: _Gather(v, length, block) for n, v in self.cache.values.items() if n in alone}
        self._masks = {n: _Gather(v, length, block) for n, v in self.cache.valid.items()}
        self._actions = _Gather(self.cache.values[ACTION], self.span - 1, 1)
        self._images = {c.name for c in store.spec.channels if c.kind == "image"}
        self._fields = {c.name: c.shape[0] for c in store.spec.channels if c.kind != "image"}

    def __len__(self) -> int:
        """Number of windows."""
        return int(self._ends[-1])

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episode and first raw step of each window: (n,), (n,)."""
        place = np.searchsorted(self._ends, indices, "right")
        episodes: NDArray[np.int64] = self._episodes[place]
        return episodes, self._rows(indices) - self.cache.starts[episodes]

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The windows at `indices` (B,), each from 0 to len(self) - 1; IndexError beyond."""
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"windows 0 to {len(self) - 1} expected, got {indices.min()} to {indices.max()}")
        first, count = self._rows(indices), len(indices)
        rows = torch.from_numpy(first)
        valid = {}
        for name in self._gathers:
            if name in self._masks:
                valid[name] = self._masks[name](rows)
            else:
                shape = (count, self.length) if name in self._images else (count, self.length, self._fields[name])
                valid[name] = torch.ones(shape, dtype=torch.bool)
        observations = {name: gather(rows) for name, gather in self._gathers.items()}
        if self._looking:
            begin = self.cache.starts[self.locate(indices)[0]]
            for name in self._looking:
                values, there = self.cache.lately(name, first, begin, self.look, length=self.length, every=self.block)
                observations[name], valid[name] = torch.from_numpy(values), torch.from_numpy(there)
        size = self.store.spec.action.size
        return Batch(
            observations,
            valid,
            self._actions(rows).reshape(count, self.length - 1, self.block * size),
        )

    def indices(
        self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1, group: int = 1
    ) -> NDArray[np.int64]:
        """The windows of training step `step`: this rank's slice of the global batch of `size`.

        Steps walk through all windows in an order that `seed` shuffles, then through the next order. They depend
        on (seed, step, size) alone, so that a resumed run and any number of ranks see the same batches.
        group: so many neighbours in the batch come from one episode, at random times; the first of each
        group walks as above, and a rank's slice holds whole groups. Raises SpecError where these do not fit.
        """
        if step < 0 or not 0 <= rank < ranks or group < 1 or size % group or size // group < ranks:
            raise SpecError(
                f"step {step}, rank {rank} of {ranks}, a batch of {size} and groups of {group} do not go together"
            )
        groups = size // group
        first, last = groups * rank // ranks, groups * (rank + 1) // ranks
        position = np.arange(first, last, dtype=np.int64) + step * groups
        found = np.repeat(_shuffled(position, len(self), seed), group).reshape(-1, group)
        if group > 1:
            place = np.searchsorted(self._ends, found[:, 1:], "right")
            low = np.where(place > 0, self._ends[place - 1], 0)
            key = _mixed(np.array(seed % 2**64, np.uint64) ^ _COMPANIONS)
            draws = _mixed(key ^ (position[:, None] * group + np.arange(1, group)).astype(np.uint64))
            found[:, 1:] = low + (draws % (self._ends[place] - low).astype(np.uint64)).astype(np.int64)
        return found.reshape(-1)

    def _rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = indices + self._offsets[np.searchsorted(self._ends, indices, "right")]
        return rows


class _Gather:
    """Copies windows out of (rows, *shape), each `length` rows, `block` apart."""

    def __init__(self, values: NDArray[Any], length: int, block: int) -> None:
        self._shape = (length, *values.shape[1:])
        self._pool: list[NDArray[Any]] = []
        self._lock = threading.Lock()
        size = int(np.prod(values.shape[1:]))
        self._bytes = length * size * values.itemsize
        self._dtype = values.dtype
        self._steps = torch.arange(length) * block
        self._source: Tensor | None = None
        if not length or not size or len(values) < (length - 1) * block + 1:
            return
        flat = torch.from_numpy(np.asarray(values)).reshape(len(values), size)
        # Neighbouring rows lie side by side in the file: a window without gaps is one long row.
        self._whole = block == 1
        self._source = flat.as_strided((len(values) - length + 1, length * size), (size, 1)) if self._whole else flat

    def __call__(self, rows: Tensor) -> Tensor:
        """(B,) first rows -> (B, length, *shape)."""
        shape = (len(rows), *self._shape)
        if self._source is None:
            return torch.from_numpy(np.zeros(shape, self._dtype))
        out = self._free(shape)
        picked = rows if self._whole else (rows[:, None] + self._steps).reshape(-1)
        torch.index_select(self._source, 0, picked, out=out.view(len(picked), -1) if len(picked) else out)
        return out

    def _free(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor to fill: large ones over memory that no earlier batch holds any more.

        Fresh memory of this size comes page by page from the system, slower than the copy itself. A tensor made
        from an array keeps a reference to it, and so does every view: the count says whether anyone still looks.
        """
        if shape[0] * self._bytes < 2**21:
            return torch.from_numpy(np.empty(shape, self._dtype))
        with self._lock:
            for array in self._pool:
                if array.shape == shape and sys.getrefcount(array) == _UNUSED:
                    return torch.from_numpy(array)
            array = np.empty(shape, self._dtype)
            self._pool = [*self._pool, array][-_POOL:]
            return torch.from_numpy(array)


def _count_references() -> int:
    pool = [np.empty(1)]
    for array in pool:
        return sys.getrefcount(array)
    raise AssertionError


_UNUSED = _count_references()
"""References to an array that only a list and a loop variable hold."""


def _shuffled(position: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Entries `position` of an endless walk that visits 0..count-1 once per round, each round in another order.

    A Feistel network permutes the next power of four; what falls beyond `count` is permuted again
    (cycle walking, Black and Rogaway 2002).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = np.arange(_ROUNDS, dtype=np.uint64)[:, None]
    rounds = (position // count).astype(np.uint64)
    keys = _mixed(_mixed(np.uint64(seed % 2**64) + keys) ^ rounds)
    found = (position % count).astype(np.uint64)
    todo = np.arange(len(found))
    while len(todo):
        left, right = found[todo] >> np.uint64(half), found[todo] & low
        for key in keys[:, todo]:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        found[todo] = (left << np.uint64(half)) | right
        todo = todo[found[todo] >= count]
    return found.astype(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
