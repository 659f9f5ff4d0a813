"""Recipes of the models that ship: what is recorded, how it is trained, how it plans."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from foretell.evaluation.experiment import Experiment
from foretell.evaluation.suite import EvaluationConfig
from foretell.model.world_model import ModelConfig
from foretell.objective.objective import ObjectiveConfig
from foretell.planning import ICEM, ControllerConfig
from foretell.training import TrainConfig
from foretell.training.practice import Practice
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit

_IMITATED = ICEM(samples=32, iterations=1, elites=8, std=0.3)
"""Enough where the search begins with what inverse dynamics would do."""
_BLOCK_FIRST = (1.0, 1.0, 0.5, 0.5)
"""Weights of where the block is and of where the finger is."""


def _maze(maze: str, offset: int) -> Experiment:
    return Experiment(
        world="pointmaze",
        options={"maze": maze, "episode_steps": 250},
        episodes=500,
        training=TrainConfig(
            model=ModelConfig(block=5),
            # The ball is 2 px of a picture that stays the same.
            objective=ObjectiveConfig(places=1.0),
            steps=1200,
            frozen_states=100_000,
            refine=Refine(steps=1000),
            distance=DistanceFit(steps=4000),
        ),
        evaluation=EvaluationConfig(
            task={"offset": offset},
            planner=_IMITATED,
            controller=ControllerConfig(horizon=6, replan_every=12),
            imitate=True,
            keep=0,
        ),
    )


RECIPES: Mapping[str, Experiment] = MappingProxyType(
    {
        "pusht": Experiment(
            world="pusht",
            episodes=6000,
            # The block is slow: of all that would have an encoder see it beside the finger this is the exactest.
            training=TrainConfig(
                model=ModelConfig(latent=6, block=3, stem=48, width=512, depth=3),
                objective=ObjectiveConfig(cutouts=1.0, prediction=0.1, sigreg=0, inverse=0),
                steps=8000,
                batch=16,
                length=2,
                learning_rate=3e-3,
                precision="float32",
                frozen_states=1_000_000,
                refine=Refine(single=14000, steps=3000, batch=1024, blocks=4, huber=0.05),
                distance=DistanceFit(steps=0),
                # Where the block is, counts; where the finger is, in part, but for having arrived: within 15 px
                # (0.15 in the latents), and 15 degrees (0.1).
                practice=Practice(steps=1750, weights=_BLOCK_FIRST, near=(4 / 3, 4 / 3, 4 / 3, 4 / 3, 2.0, 2.0)),
            ),
            evaluation=EvaluationConfig(
                task={"offset": 25},
                planner=ICEM(samples=48, iterations=2, elites=8, std=0.4),
                controller=ControllerConfig(horizon=4, replan_every=2),
                # For who plans without the critic, as LeWM's planner does.
                weights=_BLOCK_FIRST,
                keep=0,
            ),
        ),
        "reacher": Experiment(
            world="reacher",
            episodes=1500,
            training=TrainConfig(
                model=ModelConfig(block=5, history=2, width=384, depth=3),
                steps=4500,
                batch=96,
                refine=Refine(steps=2000),
                distance=DistanceFit(steps=0),
            ),
            evaluation=EvaluationConfig(
                planner=_IMITATED,
                controller=ControllerConfig(horizon=3, replan_every=2),
                imitate=True,
                task={"offset": 25},
                keep=0,
            ),
        ),
        "two_rooms_random": Experiment(
            world="two_rooms",
            options={"layout": "random", "turns": 0.0, "episode_steps": 120},
            # Many, because the predictor must see doors at each place of a wall, and few walks pass theirs.
            episodes=9000,
            before=(
                TrainConfig(
                    model=ModelConfig(context=8), steps=5000, refine=Refine(steps=0), distance=DistanceFit(steps=0)
                ),
            ),
            # Prediction weighs little until there is something to predict; then it decides how exactly walls are seen.
            training=TrainConfig(
                model=ModelConfig(context=8),
                objective=ObjectiveConfig(prediction=30.0, settle=0, ramp=0),
                steps=4000,
                learning_rate=7e-4,
                frozen_states=2_000_000,
                refine=Refine(steps=4000),
                distance=DistanceFit(steps=8000),
            ),
            evaluation=EvaluationConfig(
                task={"offset": 100},
                planner=_IMITATED,
                controller=ControllerConfig(horizon=6, replan_every=5),
                imitate=True,
                keep=0,
            ),
            trust=False,
        ),
        "pointmaze_medium": _maze("medium", 50),
        "pointmaze_large": _maze("large", 100),
    }
)
"""By the name of the model that ships."""
