"""Forecasts: the open-loop error of a readout in its own units, by horizon, and conformal intervals around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError, SpecError
from foretell.evaluation.intervals import bootstrap
from foretell.model.latents import encode_episodes
from foretell.model.readout import Readout
from foretell.model.world_model import WorldModel
from foretell.readout import channel_values

Array = NDArray[np.float64]
_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Open-loop forecasts of one channel from several steps of each of E episodes.

    A forecast at horizon h is what the readout says of the latent that the model imagines for h raw steps after
    the last observation, given the actions then taken. The model imagines one latent per block, so horizons are
    multiples of its block.

    horizons: (H,) raw steps. episode: (C,) which episode each context is of. errors: (C, H, F) forecast minus
    truth. change: (C, H, F) truth at the context minus truth then: the error of 'nothing changes', which is told
    the true value at the start. known: (C, H) where the truth is recorded, then and at the context.
    """

    channel: str
    fields: tuple[str, ...]
    units: tuple[str, ...]
    horizons: NDArray[np.int64]
    episode: NDArray[np.int64]
    errors: Array
    change: Array
    known: NDArray[np.bool_]

    @property
    def unit(self) -> str:
        """The unit of all fields, or 'mixed units'."""
        return self.units[0] if len(set(self.units)) == 1 else "mixed units"

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Per horizon the root of the mean squared Euclidean error, its 95% bootstrap interval over episodes, and
        the same of 'nothing changes': lists of H numbers, NaN where no truth is known.
        """
        rmse, low, high = self._rms(self.errors, seed)
        still, still_low, still_high = self._rms(self.change, seed)
        return {
            "channel": self.channel,
            "unit": self.unit,
            "horizons": self.horizons.tolist(),
            "rmse": rmse.tolist(),
            "interval": np.stack([low, high], axis=1).tolist(),
            "no_change": still.tolist(),
            "no_change_interval": np.stack([still_low, still_high], axis=1).tolist(),
            "episodes": len(np.unique(self.episode)),
            "contexts": len(self.episode),
        }

    def at(self, steps: int) -> int:
        """Index of the first horizon of at least `steps` raw steps, or of the longest."""
        return min(int(np.searchsorted(self.horizons, steps)), len(self.horizons) - 1)

    def _rms(self, errors: Array, seed: int) -> tuple[Array, Array, Array]:
        squares = np.where(self.known, (errors**2).sum(-1), 0.0)
        numbers = np.unique(self.episode)
        # Contexts of one episode resemble each other: episodes are what is resampled.
        sums = np.stack([squares[self.episode == e].sum(0) for e in numbers])
        counts = np.stack([self.known[self.episode == e].sum(0) for e in numbers])

        def root(drawn: Array) -> Array:
            total = drawn.sum(axis=-3)
            with np.errstate(invalid="ignore"):
                return np.asarray(np.sqrt(total[..., 0] / np.where(total[..., 1] > 0, total[..., 1], np.nan)))

        both = np.stack([sums, counts], axis=-1).astype(np.float64)
        low, high = bootstrap(both, np.random.default_rng([seed, 0xB007]), statistic=root)
        return root(both), low, high


def forecast(
    model: WorldModel,
    store: EpisodeStore,
    episodes: Sequence[int],
    readout: Readout,
    *,
    steps: int = 50,
    starts: int = 4,
    latents: Sequence[Tensor] | None = None,
) -> Forecasts:
    """Open-loop forecasts from `starts` contexts spread evenly over each episode.

    steps: the horizon wanted, raw; rounded up to whole blocks, since the model imagines no latent in between: 50
    with a block of 4 is scored at 52, which is harder. Episodes too short for it are left out; where all are,
    the horizon becomes the longest that fits one. latents: of every step of each episode, (steps, N, D).
    Raises DataError where no episode is longer than one block, SpecError for settings below 1.
    """
    if steps < 1 or starts < 1:
        raise SpecError(f"forecast: a horizon and starts of at least 1 expected, got {steps} and {starts}")
    block, history = model.config.block, model.config.history
    lengths = [int(store.lengths[i]) for i in episodes]
    back = (history - 1) * block
    blocks = min(math.ceil(steps / block), max((n - 1 - back) // block for n in lengths) if lengths else 0)
    if blocks < 1:
        raise DataError(
            f"{store.path}: a forecast needs held-out episodes of at least {back + block + 1} steps,"
            f" the longest has {max(lengths, default=0)}"
        )
    latents = encode_episodes(model, store, episodes) if latents is None else latents
    values, masks = channel_values(store, readout.channel, episodes)
    made: list[_Contexts] = []
    for place, number in enumerate(episodes):
        last = lengths[place] - 1 - blocks * block
        if last < back:
            continue
        at = np.unique(np.linspace(back, last, starts).round().astype(np.int64))
        actions = torch.from_numpy(np.array(store.read(number, []).actions, np.float32))
        made.append(_contexts(number, at, latents[place], actions, values[place], masks[place], blocks, block, history))
    z, past, plan = (torch.cat([getattr(m, n) for m in made]) for n in ("latents", "past", "plan"))
    found = []
    with torch.no_grad():
        for first in range(0, len(z), _AT_ONCE):
            part = [x[first : first + _AT_ONCE].to(model.device) for x in (z, past, plan)]
            imagined = model.rollout(part[0], part[1], part[2][:, None])[:, 0]
            found.append(readout(imagined).float().cpu())
    truth = torch.cat([m.truth for m in made]).numpy().astype(np.float64)
    known = torch.cat([m.known for m in made]).numpy()
    return Forecasts(
        channel=readout.channel,
        fields=readout.fields,
        units=readout.units,
        horizons=np.arange(1, blocks + 1, dtype=np.int64) * block,
        episode=np.concatenate([np.full(len(m.latents), m.episode, np.int64) for m in made]),
        errors=torch.cat(found).numpy().astype(np.float64) - truth[:, 1:],
        change=truth[:, :1] - truth[:, 1:],
        known=known[:, 1:] & known[:, :1],
    )


@dataclass(frozen=True, kw_only=True)
class _Contexts:
    """Contexts of one episode: latents (C, H, N, D), past (C, H-1, A), plan (C, K, A), truth (C, K+1, F)."""

    episode: int
    latents: Tensor
    past: Tensor
    plan: Tensor
    truth: Tensor
    known: Tensor


def _contexts(
    number: int,
    at: NDArray[np.int64],
    latents: Tensor,
    actions: Tensor,
    values: Tensor,
    masks: Tensor,
    blocks: int,
    block: int,
    history: int,
) -> _Contexts:
    now = torch.from_numpy(at)[:, None]
    seen = now + block * torch.arange(1 - history, 1)
    then = now + block * torch.arange(0, blocks + 1)
    before = now + torch.arange(-(history - 1) * block, 0)
    after = now + torch.arange(0, blocks * block)
    size = block * actions.shape[1]
    return _Contexts(
        episode=number,
        latents=latents[seen],
        past=actions[before].reshape(len(at), history - 1, size),
        plan=actions[after].reshape(len(at), blocks, size),
        truth=values[then],
        known=masks[then].all(-1),
    )


def calibrate(made: Forecasts, *, seed: int, level: float = 0.9) -> dict[str, Any]:
    """Half-widths of forecast intervals by split conformal prediction (Vovk et al. 2005), and their coverage.

    The episodes are split in two halves by `seed`. From one half comes, per horizon and field, the half-width: the
    ceil((n + 1) * level)-th smallest absolute error of its n contexts, infinite (None) where n is too small. On
    the other half the share of errors within it is counted: the coverage reported. Contexts of an episode are not
    independent, so the guarantee holds approximately; the coverage says how well.
    Returns a JSON-serialisable object. Raises DataError for fewer than two episodes.
    """
    numbers = np.random.default_rng([seed, 0xCA1]).permutation(np.unique(made.episode))
    if len(numbers) < 2:
        raise DataError("calibration: at least two held-out episodes expected, got one")
    fitted = np.isin(made.episode, numbers[: (len(numbers) + 1) // 2])
    size = np.abs(made.errors)
    widths = np.full(size.shape[1:], np.inf)
    coverage = np.full(size.shape[1:], np.nan)
    for h in range(size.shape[1]):
        scores = np.sort(size[fitted & made.known[:, h], h], axis=0)
        rank = math.ceil((len(scores) + 1) * level)
        if 1 <= rank <= len(scores):
            widths[h] = scores[rank - 1]
        other = size[~fitted & made.known[:, h], h]
        if len(other):
            coverage[h] = (other <= widths[h]).mean(axis=0)
    return {
        "channel": made.channel,
        "fields": list(made.fields),
        "units": list(made.units),
        "level": level,
        "horizons": made.horizons.tolist(),
        "half_width": _rows(widths),
        "coverage": _rows(coverage),
        "mean_coverage": None if np.isnan(coverage).all() else float(np.nanmean(coverage)),
        "episodes": {"fitted": (len(numbers) + 1) // 2, "checked": len(numbers) // 2},
        "contexts": {"fitted": int(fitted.sum()), "checked": int((~fitted).sum())},
    }


def _rows(values: Array) -> list[list[float | None]]:
    return [[float(v) if math.isfinite(v) else None for v in row] for row in values]
