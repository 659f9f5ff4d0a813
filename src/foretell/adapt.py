"""Adapts a trained model to a world that has changed, from a few episodes of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from foretell.episodes.cache import ACTION, Cache
from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError, require_whole
from foretell.model.actor_critic import ActorCritic
from foretell.model.checkpoint import load, save
from foretell.model.latents import encode_episodes
from foretell.model.world_model import WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.training import TrainConfig, TrainRecord, train
from foretell.training.card import NAME as CARD
from foretell.training.card import write_section
from foretell.training.loop import OnStep
from foretell.training.practice import Practice, practise
from foretell.training.record import NAME as RECORD
from foretell.training.refine import Refine, refine_predictor
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
    practice: int = 20
    """Steps in which an actor and a critic practise on, 256 ways each, where the model has them."""
    holdout: float = 0.1
    """Share of the episodes kept for evaluation and calibration."""
    better: float | None = 0.1
    """By what share of its error on the episodes held out the model must improve, or it is left as it was: where
    nothing has changed, a few episodes would only make it forget. None: whatever comes of it."""

    def __post_init__(self) -> None:
        require_whole("adaptation", self, 1, "steps", "batch")
        require_whole("adaptation", self, 0, "refine", "distance", "practice")
        if self.better is not None and not 0 <= self.better < 1:
            raise SpecError(f"adaptation: better must be from 0 to below 1, or None, got {self.better!r}")


Kind = Literal["as it was", "predictor", "all"]
"""What of a model was adapted."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What came of it. kind: what of the model was adapted. errors: of each kind, the squared error of latents foretold
    on the episodes held out, as a share of that of no change; NaN where no episode was held out that is long enough.
    """

    model: WorldModel
    kind: Kind
    errors: Mapping[Kind, float]


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

    It begins with the weights and the normalisation that it has, and learns by the objective that it was made with,
    or by `objective`; its temporal distance is learned anew, its actor and critic practise on. Beside it stands the
    model with its predictor alone refined on the same episodes, enough where what is seen has not changed. Of both,
    that is kept which foretells the episodes held out better; or the model as it was, with all its heads, where
    neither does clearly (see `Adapt.better`). Readouts and trust are else left to `calibrate`: they were fitted to
    latents and episodes as these were. Errors as in `train`.
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
    models: dict[Kind, WorldModel] = {"all": train(store, out, settings, init=model, on_step=on_step)}
    record = TrainRecord.read(out)
    if config.better is not None and record.held_out:
        models |= {"as it was": found.model, "predictor": _refined(found.model, store, record.training, config, seed)}
    errors = {kind: _foretold(one, store, record.held_out) for kind, one in models.items()}
    kind = _best(errors, config.better)
    practised = found.parts.get("actor_critic")
    if kind == "all" and isinstance(practised, ActorCritic):
        heads = {"actor_critic": _practised(models["all"], practised, store, record.training, config.practice, seed)}
        save(out, models["all"], {**load(out).parts, **heads})
    if kind != "all":
        parts = dict(found.parts)
        if kind == "predictor":
            parts = {name: part for name, part in parts.items() if name in ("temporal_distance", "actor_critic")}
        save(out, models[kind], parts)
    figures = ", ".join(f"{error:.3g} {name}" for name, error in errors.items())
    write_section(
        out / CARD,
        "## Adapted",
        f"To {len(store)} episodes: {kind}. Squared error of latents foretold {_BLOCKS} steps ahead on"
        f" {len(record.held_out)} held out, as a share of no change: {figures}.",
    )
    return Adapted(model=models[kind], kind=kind, errors=errors)


def _best(errors: Mapping[Kind, float], better: float | None) -> Kind:
    """The kind with the least error; as it was, where none is lower by the share `better`."""
    if better is None or any(math.isnan(error) for error in errors.values()) or "as it was" not in errors:
        return "all"
    least = min(errors, key=errors.__getitem__)
    return least if errors[least] < (1 - better) * errors["as it was"] else "as it was"


def _refined(model: WorldModel, store: EpisodeStore, episodes: Sequence[int], config: Adapt, seed: int) -> WorldModel:
    """A copy whose predictor has learned from these episodes' latents as they are, for `Adapt.refine` steps thrice."""
    made = copy.deepcopy(model)
    refine_predictor(
        made, *_encoded(made, store, episodes), Refine(steps=3 * config.refine, learning_rate=3e-4), seed=seed
    )
    return made


def _practised(
    model: WorldModel, before: ActorCritic, store: EpisodeStore, episodes: Sequence[int], steps: int, seed: int
) -> ActorCritic:
    """What has practised before, after some more practice in what the model imagines now."""
    more = replace(Practice.of(before.config), steps=steps, batch=256)
    return practise(model, *_encoded(model, store, episodes), more, seed=seed, init=before)


def _encoded(model: WorldModel, store: EpisodeStore, episodes: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Latents (steps, N, D) and actions (steps - 1, A), raw units, of each episode."""
    cache = Cache(store)
    latents = encode_episodes(model, store, episodes, cache=cache)
    firsts = [int(cache.starts[i]) for i in episodes]
    stretches = (cache.values[ACTION][f : f + len(z) - 1] for f, z in zip(firsts, latents, strict=True))
    return latents, [torch.from_numpy(stretch.copy()).float() for stretch in stretches]


@torch.no_grad()
def _foretold(model: WorldModel, store: EpisodeStore, episodes: Sequence[int]) -> float:
    """Squared error of latents foretold `_BLOCKS` ahead, as a share of that of no change."""
    block, history, size = model.config.block, model.config.history, model.action_size
    before, after = (history - 1) * block, _BLOCKS * block
    wrong = moved = 0.0
    for z, actions in zip(*_encoded(model.eval(), store, episodes), strict=True):
        at = torch.arange(before, len(z) - after, block)[:, None]
        if not len(at):
            continue
        past = actions[at + torch.arange(-before, 0)].reshape(len(at), history - 1, size)
        plan = actions[at + torch.arange(after)].reshape(len(at), 1, _BLOCKS, size)
        context = z[at + torch.arange(-before, 1, block)]
        places = (x.to(model.device) for x in (context, past, plan))
        there = model.rollout(*places)[:, 0, -1].cpu()
        wrong += float((there - z[at[:, 0] + after]).square().sum())
        moved += float((z[at[:, 0]] - z[at[:, 0] + after]).square().sum())
    return wrong / moved if moved else math.nan
