"""Frozen latents of recorded episodes: what heads are fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foretell.episodes.cache import Cache
from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError
from foretell.model.world_model import WorldModel

_AT_ONCE = 256


def encode_episodes(
    model: WorldModel,
    store: EpisodeStore,
    episodes: Sequence[int],
    *,
    stride: int = 1,
    cache: Cache | Path | None = None,
) -> list[Tensor]:
    """Frozen latents of every `stride`-th step of the given episodes, on the CPU: (steps, N, D) each.

    cache: decoded episodes, or the folder for them (None: inside the store).
    Raises SpecError where the store's spec is not the model's.
    """
    if stride < 1:
        raise SpecError(f"latents: a stride of at least 1 expected, got {stride}")
    model.spec.require(store.spec, str(store.path))
    decoded = cache if isinstance(cache, Cache) else Cache(store, cache)
    rows = [decoded.starts[i] + np.arange(0, store.lengths[i], stride) for i in episodes]
    if not rows:
        return []
    flat = np.concatenate(rows)
    begin = np.repeat(decoded.starts[list(episodes)], [len(r) for r in rows])
    names = [c.name for c in model.spec.observations]
    # Kept apart, the parts would leave holes between them in what the larger tensors of the encoder are taken from.
    latents = torch.empty(len(flat), 1, model.config.latent)
    with _frozen(model):
        for first in range(0, len(flat), _AT_ONCE):
            at = flat[first : first + _AT_ONCE]
            arrays = {n: decoded.values[n][at][:, None] for n in names}
            masks = {n: decoded.valid[n][at][:, None] for n in names if n in decoded.valid}
            for n in model.looking:
                arrays[n], masks[n] = decoded.lately(n, at, begin[first : first + _AT_ONCE], model.config.look)
            seen, valid = (
                {n: torch.from_numpy(x).to(model.device) for n, x in each.items()} for each in (arrays, masks)
            )
            latents[first : first + len(at)] = model.encode(seen, valid)[:, 0]
    return list(torch.split(latents, [len(r) for r in rows]))


@contextmanager
def _frozen(model: WorldModel) -> Iterator[None]:
    """The model as it is used, without gradients; as it was afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
