"""Mean and spread of every field over whole episodes: what models normalise by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from foretell.episodes.store import EpisodeStore

Array = NDArray[np.float64]

_FRAMES, _PIXELS = 512, 64
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Per field of each vector or waveform, per colour of each image, and per action, under `action`.

    mean, std: (F,) or (C,) float64, over valid entries only; std is that of the population, 0 for a
    constant. A field that is never valid has mean 0 and std 1. Of images, on the scale of 0 to 255, a
    sample of frames and pixels. count: int64 of the same shape, the entries counted. low, high: float64, likewise,
    the lowest and highest of them; infinite the wrong way round where there is none.
    """

    mean: Mapping[str, Array]
    std: Mapping[str, Array]
    count: Mapping[str, NDArray[np.int64]]
    low: Mapping[str, Array] = field(default_factory=dict)
    high: Mapping[str, Array] = field(default_factory=dict)


class Moments:
    """Running count, mean, spread and range per field; exact merging after Chan, Golub and LeVeque (1979)."""

    def __init__(self) -> None:
        self.count: NDArray[np.int64] | None = None
        self.mean = self.squares = self.low = self.high = np.zeros(0)

    def add(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Take in values (n, F) or (n, F, L) where `valid` (n, F) is True."""
        fields = values.shape[1]
        if self.count is None:
            self.count = np.zeros(fields, np.int64)
            self.mean, self.squares = np.zeros(fields), np.zeros(fields)
            self.low, self.high = np.full(fields, np.inf), np.full(fields, -np.inf)
        if not values.size:
            return
        flat = values.astype(np.float64).reshape(len(values), fields, -1)
        mask = np.broadcast_to(valid[:, :, None], flat.shape)
        axes = (0, 2)
        count = mask.sum(axes)
        mean = np.where(mask, flat, 0.0).sum(axes) / np.maximum(count, 1)
        away = np.where(mask, flat - mean[:, None], 0.0)
        total = self.count + count
        shift = mean - self.mean
        share = count / np.maximum(total, 1)
        self.mean = self.mean + shift * share
        with np.errstate(over="ignore", invalid="ignore"):
            self.squares = self.squares + (away * away).sum(axes) + shift * shift * self.count * share
        self.low = np.minimum(self.low, np.where(mask, flat, np.inf).min(axes))
        self.high = np.maximum(self.high, np.where(mask, flat, -np.inf).max(axes))
        self.count = total

    def std(self) -> Array:
        """Spread per field; 1 where nothing was seen."""
        assert self.count is not None
        spread = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(self.count > 0, spread, 1.0)

    def to_lerobot(self, image: bool = False) -> dict[str, list[Any]]:
        """An entry of meta/stats.json; of an image, (C, 1, 1) per colour. What was never seen has zeros there."""
        assert self.count is not None
        parts = {"min": self.low, "max": self.high, "mean": self.mean, "std": self.std()}
        shape = (-1, 1, 1) if image else (-1,)
        found = {
            name: np.nan_to_num(np.where(self.count > 0, part, 0.0)).reshape(shape).tolist()
            for name, part in parts.items()
        }
        return {**found, "count": [int(self.count.max(initial=0))]}


def statistics(store: EpisodeStore, episodes: Sequence[int] | None = None) -> Statistics:
    """Statistics of the given episodes (None: all), the same whoever asks and with how many ranks.

    Numbers are counted whole. Of each image channel, about 512 frames are, spread over the episodes.
    """
    chosen = list(range(len(store)) if episodes is None else episodes)
    numbers = [c for c in store.spec.channels if c.kind != "image"]
    moments = {c.name: Moments() for c in store.spec.channels} | {"action": Moments()}
    for channel in store.spec.channels:
        shape = channel.shape[-1:] if channel.kind == "image" else channel.shape
        moments[channel.name].add(np.zeros((0, *shape)), np.zeros((0, shape[0]), np.bool_))
    moments["action"].add(np.zeros((0, store.spec.action.size)), np.zeros((0, store.spec.action.size), np.bool_))
    for i in chosen:
        episode = store.read(i, [c.name for c in numbers])
        for channel in numbers:
            values = episode.observations[channel.name]
            mask = episode.valid.get(channel.name)
            whole = np.ones(values.shape[:2], np.bool_) if mask is None else mask
            moments[channel.name].add(values, whole)
        moments["action"].add(episode.actions, np.ones(episode.actions.shape, np.bool_))
    for channel in store.spec.channels:
        if channel.kind == "image":
            for pixels in _sampled(store, channel.name, chosen):
                moments[channel.name].add(pixels, np.ones(pixels.shape, np.bool_))
    count: dict[str, NDArray[np.int64]] = {n: m.count for n, m in moments.items() if m.count is not None}
    return Statistics(
        mean={n: m.mean for n, m in moments.items()},
        std={n: m.std() for n, m in moments.items()},
        count=count,
        low={n: m.low for n, m in moments.items()},
        high={n: m.high for n, m in moments.items()},
    )


def _sampled(store: EpisodeStore, channel: str, episodes: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Pixels (n, C) of about `_FRAMES` valid frames, as many from each of evenly chosen episodes."""
    height, width, colours = store.spec.channel(channel).shape
    coarse = max(1, min(height, width) // _PIXELS)
    places = np.linspace(0, len(episodes) - 1, min(len(episodes), _FRAMES)).round().astype(int)
    each = _FRAMES // max(len(places), 1)
    for k, place in enumerate(places):
        there = np.flatnonzero(store.mask(episodes[place], channel))
        if not len(there):
            continue
        # Multiples of the golden ratio: spread out, and in other places in every episode.
        spread = (k + 1 + np.arange(each)) * _GOLDEN % 1.0
        steps = np.unique((spread * len(there)).astype(int))
        yield store.frames(channel, episodes[place], there[steps])[:, ::coarse, ::coarse].reshape(-1, colours)
