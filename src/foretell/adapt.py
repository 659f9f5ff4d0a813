"""Adapts a trained model to a world that has changed, from a few episodes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError, require_whole
from foretell.model.checkpoint import load
from foretell.model.world_model import WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.training import TrainConfig, TrainRecord, train
from foretell.training.loop import OnStep
from foretell.training.record import NAME as RECORD
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit


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

    def __post_init__(self) -> None:
        require_whole("adaptation", self, 1, "steps", "batch")
        require_whole("adaptation", self, 0, "refine", "distance")


def adapt(
    model: Path,
    store: EpisodeStore | Path | str,
    out: Path,
    config: Adapt | None = None,
    *,
    objective: ObjectiveConfig | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> WorldModel:
    """Train the model of a run or checkpoint folder further on episodes of the world as it is now, into the run `out`.

    It begins with the weights and the normalisation that it has, and learns by the objective that it was made with, or
    by `objective`. Its temporal distance is learned anew, its readouts and its trust are left to `calibrate`: they were
    fitted to latents and episodes as these were. Errors as in `train`.
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
    return train(store, out, settings, init=model, on_step=on_step)
