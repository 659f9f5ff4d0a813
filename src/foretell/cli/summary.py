"""What an episode store holds, counted: ranges, missing shares, lengths, size on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from foretell.episodes.store import EpisodeStore


class Ranges:
    """Lowest, highest and mean value and missing share of each field, in one pass; integers stay exact."""

    def __init__(self, fields: Sequence[str], units: Sequence[str]) -> None:
        self._fields, self._units = fields, units
        self._low: list[Any] = [None] * len(fields)
        self._high: list[Any] = [None] * len(fields)
        self._sum = np.zeros(len(fields))
        self._valid = np.zeros(len(fields), np.int64)
        self._rows = 0
        self.dtype = ""

    def add(self, values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> None:
        """Take in (n, F) or (n, F, L) values, those that `valid` (n,) or (n, F) does not exclude."""
        count = len(values)
        self.dtype = str(values.dtype)
        self._rows += count
        mask = np.ones((count, len(self._fields)), np.bool_)
        if valid is not None:
            mask &= valid.reshape(count, -1)
        for i in range(len(self._fields)):
            kept = values[mask[:, i], i]
            if kept.size:
                low, high = kept.min().item(), kept.max().item()
                self._low[i] = low if self._low[i] is None else min(low, self._low[i])
                self._high[i] = high if self._high[i] is None else max(high, self._high[i])
                self._sum[i] += kept.mean(dtype=np.float64) * len(kept)
                self._valid[i] += len(kept)

    @property
    def missing(self) -> float:
        """Share of all entries that are missing."""
        total = self._rows * len(self._fields)
        return (total - int(self._valid.sum())) / total if total else 0.0

    def fields(self) -> list[dict[str, Any]]:
        """Per field: name, unit, low, high, mean (None where nothing is valid) and missing share."""
        return [
            {
                "name": name,
                "unit": self._units[i],
                "low": self._low[i],
                "high": self._high[i],
                "mean": float(self._sum[i] / self._valid[i]) if self._valid[i] else None,
                "missing": (self._rows - int(self._valid[i])) / self._rows if self._rows else 0.0,
            }
            for i, name in enumerate(self._fields)
        ]


def summarise(store: EpisodeStore, numbers: Iterable[int]) -> dict[str, Any]:
    """What the episodes of the given numbers hold, per channel, field and action; images are not decoded."""
    spec = store.spec
    vectors = [c for c in spec.channels if c.kind != "image"]
    ranges = {c.name: Ranges(c.fields, c.units) for c in vectors}
    images = [c.name for c in spec.channels if c.kind == "image"]
    missing, steps = dict.fromkeys(images, 0), 0
    actions = Ranges(spec.action.names, spec.action.units)
    for number in numbers:
        episode = store.read(number, [c.name for c in vectors])
        steps += int(store.lengths[number])
        for name, found in ranges.items():
            found.add(episode.observations[name], episode.valid.get(name))
        actions.add(episode.actions)
        for name in images:
            mask = store.mask(number, name)
            missing[name] += int((~mask).sum())
    channels = []
    for channel in spec.channels:
        entry: dict[str, Any] = {
            "name": channel.name,
            "kind": channel.kind,
            "role": "quantity" if channel in spec.quantities else "observation",
            "shape": channel.shape,
        }
        if channel.kind == "image":
            share = missing[channel.name] / steps if steps else 0.0
            encoding = {"image": "png", "video": "mp4"}[store.encoding(channel.name)]
            entry |= {"dtype": "uint8", "encoding": encoding, "missing": share}
        else:
            found = ranges[channel.name]
            entry |= {"dtype": found.dtype, "missing": found.missing, "fields": found.fields()}
        channels.append(entry)
    return {"channels": channels, "actions": actions.fields()}


def size_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
