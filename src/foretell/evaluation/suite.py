"""The whole evaluation of a run: planning beside its floors, forecasts beside 'nothing changes', replanning time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError
from foretell.evaluation.baselines import Imitating, RandomActions, fit_inverse_dynamics, straight
from foretell.evaluation.forecast import Forecasts, forecast
from foretell.evaluation.plan_support import LEVEL, Leaving, plans_that_leave
from foretell.evaluation.protocols import Outcome, Policy, replan_times, run_controller, run_policy
from foretell.evaluation.trust import SUPPORT
from foretell.model.actor_critic import ActorCritic
from foretell.model.distance import TemporalDistance
from foretell.model.imitation import Imitation
from foretell.model.readout import Readout
from foretell.model.world_model import WorldModel
from foretell.planning import ICEM, Controller, ControllerConfig, Planner, weighted_distance
from foretell.planning.adaptation import Adaptation
from foretell.planning.guard import Guard
from foretell.planning.proposals import imitated, practised
from foretell.readout import fit_readout
from foretell.trust.conformal import needed
from foretell.trust.support import KINDS, Support
from foretell.worlds import World

IMITATION = "imitation"
FLOORS = {
    "random": "random actions",
    "straight": "straight at the goal",
    "inverse_dynamics": "inverse dynamics, same episodes",
    "cloning": "behaviour cloning, same episodes",
}
"""What planning is shown beside, in words."""
_PROBLEMS = 1_000_000
_RECORDED = 2.0
"""Typical size of planned actions, in standard deviations of the recorded ones: a planner begins with half of it."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to measure.

    episodes: problems, drawn by `seed`, none of which the world records in training. task: options of the
    world's task. planner, controller: what is evaluated; the temporal distance of the run is planned with where
    it has one, else the squared one, in which the first values of a latent count with `weights`. imitate: whether a
    search begins with what inverse dynamics would do, where the run has that.
    keep: problems kept step by step for pictures. horizon: raw steps of the forecasts.
    replans: replannings that are timed, one problem at a time.
    """

    episodes: int = 100
    seed: int = 0
    task: Mapping[str, Any] = field(default_factory=dict)
    planner: Planner = ICEM(samples=64, iterations=3, elites=8)  # noqa: RUF009 - frozen
    controller: ControllerConfig = ControllerConfig()  # noqa: RUF009 - frozen
    weights: tuple[float, ...] = ()
    imitate: bool = False
    keep: int = 8
    horizon: int = 50
    replans: int = 30

    def __post_init__(self) -> None:
        for name in ("episodes", "horizon", "replans"):
            if getattr(self, name) < 1:
                raise SpecError(f"evaluation: {name} of at least 1 expected, got {getattr(self, name)}")
        if self.seed < 0 or self.keep < 0:
            raise SpecError(f"evaluation: seed and keep of at least 0 expected, got {self.seed} and {self.keep}")

    @property
    def problems(self) -> list[int]:
        """Seeds of the problems; those of different seeds differ."""
        return [self.seed * _PROBLEMS + i for i in range(self.episodes)]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a model learned from: its store, which episodes of it, which were held out, and their latents.

    latents: by episode number, of every step, (steps, N, D), frozen.
    """

    store: EpisodeStore
    training: Sequence[int]
    held_out: Sequence[int]
    latents: Mapping[int, Tensor]

    def of(self, episodes: Sequence[int]) -> list[Tensor]:
        """The latents of these episodes."""
        return [self.latents[i] for i in episodes]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured. floors: by name. replan_ms: (n,) single replannings. forecasts: None without quantities.

    leaving: plans that leave training; None where the run has no plan support, or too few plans to calibrate it.
    """

    planning: Outcome
    floors: dict[str, Outcome]
    replan_ms: NDArray[np.float64]
    forecasts: Forecasts | None
    config: EvaluationConfig
    seconds: dict[str, float]
    leaving: Leaving | None = None

    def planning_json(self) -> dict[str, Any]:
        """success, interval, episodes, the floors by name, replan_ms (the median)."""
        return {
            "success": self.planning.success,
            "interval": list(self.planning.interval),
            "episodes": len(self.planning.solved),
            **{name: floor.success for name, floor in self.floors.items()},
            "replan_ms": float(np.median(self.replan_ms)),
        }

    def forecast_json(self) -> dict[str, Any] | None:
        """horizon, rmse and no_change at the first horizon of at least the steps asked for, with intervals."""
        if self.forecasts is None:
            return None
        made = self.forecasts.summary(self.config.seed)
        at = self.forecasts.at(self.config.horizon)
        found = {key: made[key][at] for key in ("rmse", "interval", "no_change", "no_change_interval")}
        return {
            "horizon": int(self.forecasts.horizons[at]),
            **found,
            **{key: made[key] for key in ("channel", "unit", "episodes", "contexts")},
            "by_horizon": {key: made[key] for key in ("horizons", "rmse", "interval", "no_change")},
        }

    def leaving_json(self) -> dict[str, Any] | None:
        """How many plans leave training, and where; see `Leaving.to_json`."""
        return None if self.leaving is None else self.leaving.to_json()

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, JSON-serialisable."""
        planning = self.planning_json()
        planning["floor_intervals"] = {name: list(floor.interval) for name, floor in self.floors.items()}
        planning["replan_ms_95"] = float(np.quantile(self.replan_ms, 0.95))
        planning["median_steps"] = (
            float(np.median(self.planning.steps[self.planning.solved])) if self.planning.solved.any() else None
        )
        return {
            "planning": planning,
            "forecast": self.forecast_json(),
            "plans_leaving_training": self.leaving_json(),
            "task": dict(self.config.task),
            "seed": self.config.seed,
            "seconds": dict(self.seconds),
        }


def controller_for(
    model: WorldModel,
    parts: Mapping[str, nn.Module],
    config: EvaluationConfig,
    *,
    guard: Guard | None = None,
    adaptation: Adaptation | None = None,
) -> Controller:
    """The controller that is evaluated: plans by what the run's critic says, beginning with what its actor does;
    without them by the run's temporal distance, or by the squared one without it, beginning with what is imitated if it
    is to. Searches are among actions as large as those that were recorded.
    """
    distance, dynamics = parts.get("temporal_distance"), parts.get(f"{IMITATION}.inverse_dynamics")
    critic, settings = parts.get("actor_critic"), config.controller
    propose, far = None, distance if isinstance(distance, TemporalDistance) else weighted_distance(config.weights)
    if isinstance(critic, ActorCritic):
        propose, far = practised(model, critic, settings.horizon), critic.along
        # The critic itself says what comes after a plan, and that being there once is enough.
        settings = replace(settings, terminal=1.0, discount=1.0, nearest=0.0)
    elif config.imitate and isinstance(dynamics, Imitation):
        propose = imitated(model, dynamics, settings.horizon)
    return Controller(
        model,
        config.planner,
        settings,
        distance=far,
        propose=propose,
        guard=guard,
        adaptation=adaptation,
        scale=_RECORDED * model.get_buffer("scale_action"),
    )


def readout_for(model: WorldModel, parts: Mapping[str, nn.Module], recorded: Recorded, *, seed: int) -> Readout | None:
    """The readout that forecasts are scored by, of the spec's first quantity; None for a spec without any.

    The run's own where it has one, else fitted here on the frozen latents of the training episodes.
    """
    if not model.spec.quantities:
        return None
    name = model.spec.quantities[0].name
    kept = parts.get(f"readout.{name}")
    if isinstance(kept, Readout):
        return kept
    return fit_readout(
        model, recorded.store, name, recorded.training, seed=seed, latents=recorded.of(recorded.training)
    )


def floors_for(
    model: WorldModel, parts: Mapping[str, nn.Module], recorded: Recorded | None, *, seed: int
) -> dict[str, Policy]:
    """What a run's planning is shown beside, by name: random actions, straight at the goal, and policies by imitation:
    those that travel with the run, and inverse dynamics, fitted here where it does not and there are recorded episodes.
    """
    found: dict[str, Policy] = {"random": RandomActions(action=model.spec.action, seed=seed), "straight": straight}
    for name in ("inverse_dynamics", "cloning"):
        part = parts.get(f"{IMITATION}.{name}")
        if isinstance(part, Imitation):
            found[name] = Imitating(model, part)
    if recorded is not None and "inverse_dynamics" not in found:
        latents = recorded.of(recorded.training)
        found["inverse_dynamics"] = fit_inverse_dynamics(model, recorded.store, recorded.training, latents, seed=seed)
    return found


def evaluate(
    model: WorldModel,
    parts: Mapping[str, nn.Module],
    recorded: Recorded | None,
    world: World,
    config: EvaluationConfig,
    *,
    readout: Readout | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Evaluation:
    """Measure everything; the same arguments give the same figures, but for times.

    recorded: what the model learned from, which held-out forecasts and what imitates need; None where only planning is
    measured. readout: what forecasts are scored by, from `readout_for`; None leaves forecasts out. say: told what is
    being done.

    Raises SpecError where the world's spec is not the model's.
    """
    model.spec.require(world.spec, f"world {world.name}")
    seconds: dict[str, float] = {}

    def timed(name: str, started: float) -> None:
        seconds[name] = time.perf_counter() - started

    started = time.perf_counter()
    made = None
    if readout is not None and recorded is not None and recorded.held_out:
        say("forecasting held-out episodes")
        held_out = recorded.held_out
        made = forecast(model, recorded.store, held_out, readout, steps=config.horizon, latents=recorded.of(held_out))
        timed("forecast", started)
    started = time.perf_counter()
    policies = floors_for(model, parts, recorded, seed=config.seed)
    say(f"the floors: {', '.join(FLOORS[name] for name in policies)}")
    task, problems = world.task(**config.task), config.problems
    floors = {name: run_policy(task, problems, policy) for name, policy in policies.items()}
    timed("floors", started)
    controller = controller_for(model, parts, config)
    say("timing the planner")
    started = time.perf_counter()
    times = replan_times(task, problems, controller, seed=config.seed, count=config.replans)
    timed("replanning", started)
    say(f"planning {config.episodes} episodes")
    started = time.perf_counter()
    planning = run_controller(task, problems, controller, seed=config.seed, keep=config.keep)
    timed("planning", started)
    support, leaving = parts.get(SUPPORT), None
    if isinstance(support, Support) and support.plans >= needed(LEVEL / len(KINDS)) and any(planning.plans):
        leaving = plans_that_leave(support, planning.plans)
    return Evaluation(
        planning=planning,
        floors=floors,
        replan_ms=np.asarray(times, np.float64),
        forecasts=made,
        config=config,
        seconds=seconds,
        leaving=leaving,
    )
