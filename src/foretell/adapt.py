"""Adapts a trained model to a world that has changed, from a few episodes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from foretell.episodes.cache import ACTION, Cache
from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError, require_whole
from foretell.model.checkpoint import load, save
from foretell.model.latents import encode_episodes
from foretell.model.world_model import WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.training import TrainConfig, TrainRecord, train
from foretell.training.card import NAME as CARD
from foretell.training.card import write_section
from foretell.training.loop import OnStep
from foretell.training.record import NAME as RECORD
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit

_BLOCKS = 5
"""How far ahead models are compared, in latent steps."""


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """How a model is adapted. Raises SpecError for values out of range."""

    steps: int = 300
    """Optimiser steps of the whole model."""
    batch: int = 64
    """Windows in a step."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    refine: int = 500
    """Steps of the predictor alone, afterwards."""
    distance: int = 2000
    """Steps in which the temporal distance is learned anew, where the model has one."""
    holdout: float = 0.1
    """Share of the episodes kept for evaluation and calibration."""
    better: float | None = 0.1
    """By what share of its error on the episodes held out the model must improve, or it is left as it was: where
    nothing has changed, a few episodes would only make it forget. None: whatever comes of it."""

    def __post_init__(self) -> None:
        require_whole("adaptation", self, 1, "steps", "batch")
        require_whole("adaptation", self, 0, "refine", "distance")
        if self.better is not None and not 0 <= self.better < 1:
            raise SpecError(f"adaptation: better must be from 0 to below 1, or None, got {self.better!r}")


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What came of it. before, after: squared errors of latents foretold on the episodes held out, as shares of those
    of no change, of the model as it was and as adapted; NaN where no episode was held out that is long enough.
    kept: whether the model was left as it was, as adapting did not make it clearly better.
    """

    model: WorldModel
    before: float
    after: float
    kept: bool


def adapt(
    model: Path,
    store: EpisodeStore | Path | str,
    out: Path,
    config: Adapt | None = None,
    *,
    objective: ObjectiveConfig | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Adapted:
    """Train the model of a run or checkpoint folder further on episodes of the world as it is now, into the run `out`.

    It begins with the weights and the normalisation that it has, and learns by the objective that it was made with, or
    by `objective`. Its temporal distance is learned anew, its readouts and its trust are left to `calibrate`: they were
    fitted to latents and episodes as these were. Where it foretells the episodes held out no better for it (see
    `Adapt.better`), the run holds the model as it was, with all its heads. Errors as in `train`.
    """
    config, found = config or Adapt(), load(model)
    if objective is None:
        known = (model / RECORD).exists()
        objective = TrainRecord.read(model).config.objective if known else ObjectiveConfig()
    store = store if isinstance(store, EpisodeStore) else EpisodeStore(store)
    found.model.spec.require(store.spec, str(store.path))
    plans = "temporal_distance" in found.parts
    settings = TrainConfig(
        model=found.model.config,
        # There is something to predict from the first step on.
        objective=replace(objective, settle=0, ramp=0),
        steps=config.steps,
        batch=config.batch,
        learning_rate=config.learning_rate,
        warmup=min(20, config.steps),
        holdout=config.holdout,
        refine=Refine(steps=config.refine, learning_rate=3e-4),
        distance=DistanceFit(steps=config.distance if plans else 0),
        seed=seed,
    )
    if len(store) < 2 and config.holdout:
        raise SpecError(f"adaptation: at least 2 episodes expected, one of them held out, got {len(store)}")
    made = train(store, out, settings, init=model, on_step=on_step)
    held_out = TrainRecord.read(out).held_out
    before, after = (_foretold(one, store, held_out) for one in (found.model, made))
    kept = config.better is not None and not math.isnan(before) and not after < (1 - config.better) * before
    if kept:
        save(out, found.model, dict(found.parts))
        made = found.model
    errors = f"{before:.3f} as it was, {after:.3f} adapted"
    write_section(
        out / CARD,
        "## Adapted",
        f"To {len(store)} episodes. Squared error of latents foretold {_BLOCKS} steps ahead on {len(held_out)} held"
        f" out, as a share of no change: {errors}." + (" No better: this is the model as it was." if kept else ""),
    )
    return Adapted(model=made, before=before, after=after, kept=kept)


@torch.no_grad()
def _foretold(model: WorldModel, store: EpisodeStore, episodes: Sequence[int]) -> float:
    """Squared error of latents foretold `_BLOCKS` ahead, as a share of that of no change."""
    block, history, size = model.config.block, model.config.history, model.action_size
    before, after = (history - 1) * block, _BLOCKS * block
    cache = Cache(store)
    wrong = moved = 0.0
    for i, z in zip(episodes, encode_episodes(model.eval(), store, episodes, cache=cache), strict=True):
        at = torch.arange(before, len(z) - after, block)[:, None]
        if not len(at):
            continue
        first = int(cache.starts[i])
        actions = torch.from_numpy(cache.values[ACTION][first : first + len(z) - 1].copy()).float()
        past = actions[at + torch.arange(-before, 0)].reshape(len(at), history - 1, size)
        plan = actions[at + torch.arange(after)].reshape(len(at), 1, _BLOCKS, size)
        context = z[at + torch.arange(-before, 1, block)]
        places = (x.to(model.device) for x in (context, past, plan))
        there = model.rollout(*places)[:, 0, -1].cpu()
        wrong += float((there - z[at[:, 0] + after]).square().sum())
        moved += float((z[at[:, 0]] - z[at[:, 0] + after]).square().sum())
    return wrong / moved if moved else math.nan
