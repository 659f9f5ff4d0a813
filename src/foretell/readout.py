"""Fits readouts on the frozen latents of recorded episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError, SpecError
from foretell.model.latents import encode_episodes
from foretell.model.readout import Readout
from foretell.model.world_model import WorldModel


def channel_values(store: EpisodeStore, channel: str, episodes: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Values (steps, F) float32 and masks (steps, F) bool of a vector channel, per episode."""
    found = store.spec.channel(channel)
    if found.kind != "vector":
        raise SpecError(f"channel {channel}: a vector expected to read out, got a {found.kind}")
    values, masks = [], []
    for i in episodes:
        episode = store.read(i, [channel])
        array = np.asarray(episode.observations[channel], np.float32)
        mask = episode.valid.get(channel)
        seen = np.ones(array.shape, np.bool_)
        if mask is not None:
            seen &= mask.reshape(len(array), -1)
        values.append(torch.from_numpy(np.where(seen, array, np.float32(0))))
        masks.append(torch.from_numpy(seen))
    return values, masks


def fit_readout(
    model: WorldModel,
    store: EpisodeStore,
    channel: str,
    episodes: Sequence[int],
    *,
    seed: int,
    steps: int = 1500,
    latents: Sequence[Tensor] | None = None,
    batch: int = 512,
    learning_rate: float = 2e-3,
) -> Readout:
    """A readout of a vector channel (a quantity, or an observation), fitted by AdamW with a cosine schedule.

    episodes: those to learn from; latents: theirs, from `encode_episodes` (None: encoded here).
    Steps at which a field is missing are left out. Raises SpecError for a channel that is not a vector,
    DataError where nothing of it is valid.
    """
    targets, masks = channel_values(store, channel, episodes)
    latents = encode_episodes(model, store, episodes) if latents is None else latents
    if [len(z) for z in latents] != [len(v) for v in targets]:
        raise SpecError(f"readout {channel}: latents of every step of the {len(targets)} episodes expected")
    z, values = torch.cat(list(latents)), torch.cat(targets)
    whole = torch.cat(masks).all(dim=1)
    if not bool(whole.any()):
        raise DataError(f"{store.path}: channel {channel} is missing throughout; there is nothing to fit a readout to")
    z, values = z[whole], values[whole]
    found = store.spec.channel(channel)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        readout = Readout(
            channel=channel, fields=found.fields, units=found.units, latent=z.shape[-1], tokens=z.shape[-2]
        )
    readout.normalise_by(z, values)
    wanted = (values - readout.get_buffer("field_centre")) / readout.get_buffer("field_scale")
    optimiser = torch.optim.AdamW(readout.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        at = torch.randint(len(z), (batch,), generator=generator)
        loss = functional.mse_loss(readout.normalised(z[at]), wanted[at])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return readout.eval().requires_grad_(False).to(model.device)
