"""The controller: a receding-horizon loop around a planner, with its whole state passed in and out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning.adaptation import Adaptation, Adapted, Lived
from foretell.planning.costs import (
    Distance,
    Imagines,
    PlanCost,
    StageCost,
    combined,
    rollout_cost,
    squared_distance,
    towards,
)
from foretell.planning.guard import Advice, Guard, Mode, Planned
from foretell.planning.lens import Looked, has_lens, through
from foretell.planning.live import checked
from foretell.planning.planner import Cost, Plan, Planner, PlanningError, PlanState, copied
from foretell.spec import ActionSpec, Spec

_SHARES: dict[Mode, float] = {"carry_on": 1.0, "slow_down": 0.5, "hand_over": 0.0}

Propose = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Context (B, H, N, D), past (B, H-1, A) and goal latents (B, N, D), if any -> plans (B, P, K, A) to consider."""


Shown = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Vectors of one step, (B, 1, F) by channel, and their masks of the same shape."""


class Sizes(Protocol):
    """What a controller needs of a model's configuration: raw steps per latent step, latents in a context."""

    @property
    def block(self) -> int:
        """Raw steps between two latent steps."""
        ...

    @property
    def history(self) -> int:
        """Latents that a prediction looks at."""
        ...

    @property
    def look(self) -> int:
        """Raw steps of vectors that a latent takes."""
        ...


class Model(Imagines, Protocol):
    """What a controller needs of a world model."""

    @property
    def spec(self) -> Spec:
        """What it sees and which actions it takes."""
        ...

    @property
    def config(self) -> Sizes:
        """Its sizes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def encode(self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None) -> Tensor:
        """Latents (B, T, N, D) of observations (B, T, *shape)."""
        ...

    def looking_back(
        self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What `encode` takes of successive raw steps (B, T, *shape)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """How far to look ahead and how often.

    horizon: latent steps K of a plan. replan_every: raw steps that are executed of each plan.
    terminal: weight of the last step's cost. discount: factor of the cost from one latent step to the next.
    nearest: weight of the step of a plan that comes nearest to the goal, where being there once is enough.
    at_once: candidates, over all episodes, that are imagined together; bounds the memory of large batches.
    """

    horizon: int = 6
    replan_every: int = 2
    terminal: float = 4.0
    discount: float = 1.0
    nearest: float = 0.0
    at_once: int = 1024

    def __post_init__(self) -> None:
        if min(self.horizon, self.replan_every, self.at_once) < 1:
            raise SpecError(f"controller: horizon, replan_every and at_once of at least 1 expected, got {self}")
        if not (self.terminal >= 0 and 0 < self.discount <= 1 and self.nearest >= 0):
            raise SpecError(f"controller: terminal >= 0, 0 < discount <= 1 and nearest >= 0 expected, got {self}")


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything a controller knows between two steps, for B episodes. Nothing in it is changed in place.

    time: raw steps taken. stage: the cost of being at a latent. goal: (B, N, D) latents of the goal
    observations, None where the goal is a stage cost.
    times, latents: when what was seen, the newest last, each (B, N, D); only what a coming context needs.
    shown: vectors (B, 1, F) and masks of the steps before that the next latent takes; none where it takes one step.
    actions: (B, T, A) the latest raw actions executed, the newest last.
    search: where the next search starts from. plan: the latest, actions (B, K, block * A); planned_at: its time.
    imagined: (B, K, N, D) the latents that the plan is expected to lead to.
    guarded: the guard's state of each episode; empty without a guard. advice: what it said last, of each.
    adapted: how the episodes' worlds differ from the one learned, as far as it is known; None where nobody adapts.
    looked: what has changed in their pictures; None where nobody asks.
    """

    time: int
    batch: int
    stage: StageCost
    goal: Tensor | None
    times: tuple[int, ...]
    latents: tuple[Tensor, ...]
    actions: Tensor
    search: PlanState
    shown: tuple[Shown, ...] = ()
    plan: Plan | None = None
    planned_at: int = 0
    imagined: Tensor | None = None
    guarded: tuple[Any, ...] = ()
    advice: tuple[Advice, ...] = ()
    adapted: Adapted | None = None
    looked: Looked | None = None

    def executed(self, actions: Tensor) -> State:
        """The same state after other raw actions (B, A) than the controller's last were executed."""
        if self.time == 0 or actions.shape != self.actions.shape[::2]:
            raise SpecError(f"executed actions: shape {tuple(self.actions.shape[::2])} after a step expected")
        actions = actions.to(self.actions)
        return replace(self, actions=torch.cat([self.actions[:, :-1], actions.unsqueeze(1)], dim=1))


class Controller:
    """Plans every `replan_every` raw steps and executes the plan in between, one raw action per step.

    model: a world model. planner: any planner. distance: between imagined latents and the goal's.
    penalty: a cost of the actions themselves, added to that of what they lead to. inside: a cost of actions and of
    what they lead to together, such as `trust.support.Support.inside`, which keeps plans to what training covered.
    propose: offers plans to the planner at each replanning (an inverse-dynamics policy, a retrieved plan).
    scale: (A,) typical size of the actions, half their range at most, and that unless given; 1 where they have no
    bounds. What is far beyond the actions that were recorded is beyond what the model knows.
    told: names of the actions that are not planned but told of at each step, by default the spec's exogenous ones; more
    of them where others decide on those.
    guard: may slow an episode down (part of the way from the spec's safe action to the planned one) or hand it over
    to the safe action altogether. adaptation: adapts the model within each episode to what has followed there so far.
    Raises SpecError where the spec names no actions, or none that is safe beside a
    guard, or a plan ends before the next one is made.
    """

    def __init__(
        self,
        model: Model,
        planner: Planner,
        config: ControllerConfig | None = None,
        *,
        distance: Distance = squared_distance,
        penalty: Cost | None = None,
        inside: PlanCost | None = None,
        propose: Propose | None = None,
        scale: Tensor | None = None,
        told: Sequence[str] | None = None,
        guard: Guard | None = None,
        adaptation: Adaptation | None = None,
    ) -> None:
        self.model, self.planner, self.guard, self.adaptation = model, planner, guard, adaptation
        self.config = ControllerConfig() if config is None else config
        self.distance, self.penalty, self.inside, self.propose, self.scale = distance, penalty, inside, propose, scale
        self.spec, self.block, self.history = model.spec, model.config.block, model.config.history
        self.look = model.config.look
        lenses = None if adaptation is None else adaptation.lenses
        self.lenses = lenses if has_lens(self.spec, self.look) else None
        if self.spec.action.size == 0:
            raise SpecError("controller: the spec names no actions, so there is nothing to plan")
        names = self.spec.action.names
        self.told = self.spec.action.exogenous if told is None else tuple(told)
        if not set(self.told) < set(names) or not set(self.told) >= set(self.spec.action.exogenous):
            raise SpecError(
                f"controller: some of the actions {list(names)} to be told, all exogenous ones among them, and others"
                f" to plan expected, got {list(self.told)}"
            )
        if guard is not None and self.spec.action.safe is None:
            raise SpecError("controller: the spec names no safe action to hand over to, which a guard needs")
        planned = self.config.horizon * self.block
        if self.config.replan_every > planned:
            raise SpecError(
                f"controller: replan_every must be at most the {planned} raw steps of a plan"
                f" ({self.config.horizon} blocks of {self.block}), got {self.config.replan_every}"
            )

    def start(
        self,
        goal: Mapping[str, Tensor] | StageCost,
        *,
        generator: torch.Generator,
        batch: int | None = None,
        valid: Mapping[str, Tensor] | None = None,
    ) -> State:
        """The state before the first step.

        goal: observations to reach, by channel, (B, *shape) or (B, 1, *shape), with masks `valid`; or a
        stage cost, such as `costs.within`, of latents, for `batch` episodes.
        generator: copied, not advanced: the same generator gives the same actions.
        Raises SpecError, naming the channel, where the goal does not fit the spec.
        """
        seen = None
        if isinstance(goal, Mapping):
            steps, masks = seen = checked(self.spec, goal, valid, batch=batch, where="goal")
            with torch.inference_mode(False), torch.no_grad():
                reach = self._encode(steps, masks)
            batch, stage = len(reach), towards(reach, self.distance)
        elif batch is None or batch < 1:
            raise SpecError("controller: batch, the number of episodes, is needed beside a goal that is a cost")
        else:
            reach, stage = None, goal
        low, high = _bounds(self.spec.action, self.model.device)
        search = PlanState.start(
            low,
            high,
            batch=batch,
            horizon=self.config.horizon,
            generator=copied(generator),
            block=self.block,
            scale=None if self.scale is None else self.scale.to(low),
        )
        return State(
            time=0,
            batch=batch,
            stage=stage,
            goal=reach,
            times=(),
            latents=(),
            actions=low.new_zeros(batch, 0, self.spec.action.size),
            search=search,
            guarded=() if self.guard is None else tuple(self.guard.start() for _ in range(batch)),
            adapted=None
            if self.adaptation is None
            else self.adaptation.start(batch, self.spec.action.size, self.history, low),
            looked=None if self.lenses is None else self.lenses.start(self.spec, batch, seen, low),
        )

    def retarget(self, state: State, goal: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None) -> State:
        """The same state with other goals, which the next plan is made for; arguments and errors as in `start`."""
        steps, masks = checked(self.spec, goal, valid, batch=state.batch, where="goal")
        looked = None if state.looked is None else state.looked.wanting((steps, masks))
        with torch.inference_mode(False), torch.no_grad():
            reach = self._encode(steps, masks, looked=looked)
        return replace(state, goal=reach, stage=towards(reach, self.distance), looked=looked)

    def step(
        self,
        observations: Mapping[str, Tensor],
        state: State,
        valid: Mapping[str, Tensor] | None = None,
        ahead: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Raw actions (B, A) for the observations (B, *shape) of now, and the state for the next step.

        valid: by channel, (B,) or, for vectors and waveforms, (B, F) bool; channels not named are valid
        throughout. Invalid values are not looked at. ahead: (B, n, E) what is told of the E actions that are not
        planned, in the spec's order, for this step and the next ones; nothing where it ends, or without it.
        Raises SpecError, naming the channel, where the observations do not fit the spec; PlanningError where no plan
        can be scored.
        """
        # A caller may be in inference mode, whose tensors a gradient planner cannot use.
        with torch.inference_mode(False), torch.no_grad():
            steps, masks = checked(self.spec, observations, valid, batch=state.batch)
            before = state.actions[:, -1] if state.time else None
            due = state.plan is None or state.time - state.planned_at >= self.config.replan_every
            state = self._looked(steps, masks, state, due)
            told = self._told(ahead, state.batch)
            if due:
                state = self._replan(self._through(self._lived(state)), told)
            actions, state = self._act(state, told)
            return (actions, state) if self.guard is None else self._guarded(actions, before, steps, masks or {}, state)

    def followed(
        self,
        observations: Mapping[str, Tensor],
        state: State,
        actions: Tensor,
        valid: Mapping[str, Tensor] | None = None,
    ) -> State:
        """The state after a step at which raw actions (B, A) were executed without planning: where a plan came too late
        for it. Arguments and errors as in `step`; a guard is not asked.
        """
        if actions.shape != (state.batch, self.spec.action.size):
            expected = (state.batch, self.spec.action.size)
            raise SpecError(f"executed actions: shape {expected} expected, got {tuple(actions.shape)}")
        with torch.inference_mode(False), torch.no_grad():
            steps, masks = checked(self.spec, observations, valid, batch=state.batch)
            return self._executed(self._looked(steps, masks, state, False), actions)

    def _looked(self, steps: dict[str, Tensor], masks: dict[str, Tensor] | None, state: State, due: bool) -> State:
        """With what is seen now, as far as this or a coming context needs it."""
        if self.lenses is not None and state.looked is not None:
            looked = self.lenses.seen(state.looked, steps, masks, self._remembered + 1)
            state = replace(state, looked=looked)
        if due or self.adaptation is not None or self._needed(state):
            state = self._seen(state, self._encode(steps, masks, state.shown, state.looked))
        if self.look > 1:
            state = replace(state, shown=(*state.shown, self._vectors(steps, masks))[1 - self.look :])
        return state

    def _executed(self, state: State, actions: Tensor) -> State:
        """One raw step later."""
        kept = max(1, self._remembered)
        actions = torch.cat([state.actions, actions.to(state.actions).unsqueeze(1)], dim=1)[:, -kept:]
        return replace(state, time=state.time + 1, actions=actions)

    def _guarded(
        self,
        actions: Tensor,
        before: Tensor | None,
        steps: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        state: State,
    ) -> tuple[Tensor, State]:
        """The actions as the guard lets them pass."""
        assert self.guard is not None
        plans = self.planned(state)
        advice, guarded = [], []
        for i, known in enumerate(state.guarded):
            said, now = self.guard.advise(
                {n: x[i, 0] for n, x in steps.items()},
                {n: x[i, 0] for n, x in masks.items()},
                None if before is None else before[i],
                plans[i],
                known,
            )
            advice.append(said)
            guarded.append(now)
        safe = actions.new_tensor(self.spec.action.safe)
        shares = [_SHARES[said.mode] if said.share is None else said.share for said in advice]
        share = actions.new_tensor(shares)[:, None]
        actions = torch.lerp(safe.expand_as(actions), actions, share)
        return actions, replace(state.executed(actions), guarded=tuple(guarded), advice=tuple(advice))

    def planned(self, state: State) -> list[Planned | None]:
        """The plan of each episode where it was made at the step just taken; None where an earlier one is followed."""
        if state.plan is None or state.imagined is None or state.planned_at != state.time - 1:
            return [None] * state.batch
        latents = torch.cat([state.latents[-1][:, None], state.imagined], dim=1)
        return [Planned(z, a) for z, a in zip(latents, state.plan.actions, strict=True)]

    def _told(self, ahead: Tensor | None, batch: int) -> Tensor | None:
        """(B, K * block, A) what is told of actions, NaN for those that are planned; None where all are."""
        action, steps = self.spec.action, self.config.horizon * self.block
        which = [i for i, name in enumerate(action.names) if name in self.told]
        if not which:
            return None
        told = torch.full((batch, steps, action.size), math.nan, device=self.model.device)
        told[..., which] = told.new_tensor(action.still)[which]
        if ahead is not None:
            if ahead.dim() != 3 or ahead.shape[0] != batch or ahead.shape[2] != len(which):
                raise SpecError(
                    f"controller: what is told ahead of shape ({batch}, steps, {len(which)}) expected,"
                    f" got {tuple(ahead.shape)}"
                )
            told[:, : ahead.shape[1], which] = ahead[:, :steps].to(told)
        return told

    def _act(self, state: State, told: Tensor | None) -> tuple[Tensor, State]:
        assert state.plan is not None
        raw = state.plan.actions.reshape(state.batch, -1, self.spec.action.size)
        low, high = state.search.low[: raw.shape[-1]], state.search.high[: raw.shape[-1]]
        actions = raw[:, state.time - state.planned_at].clamp(low, high)
        if told is not None:
            actions = torch.where(told[:, 0].isnan(), actions, told[:, 0])
        return actions, self._executed(state, actions)

    def _replan(self, state: State, told: Tensor | None) -> State:
        context, past = self._context(state)
        model: Imagines = self.model
        if self.adaptation is not None and state.adapted is not None:
            but = None if state.looked is None else state.looked.used.any(1)
            model = self.adaptation.model(model, state.adapted, self._action_scale(state), but)
        cost = rollout_cost(
            model,
            context,
            past,
            state.stage,
            terminal=self.config.terminal,
            discount=self.config.discount,
            nearest=self.config.nearest,
            inside=self.inside,
            at_once=self.config.at_once,
        )
        if self.penalty is not None:
            cost = combined((1.0, cost), (1.0, self.penalty))
        if told is not None:
            cost = _with(told.view(state.batch, 1, self.config.horizon, -1), cost)
        search = state.search
        if state.plan is not None:
            search = search.shift(state.time - state.planned_at)
        if self.propose is not None:
            search = replace(search, proposals=self.propose(context, past, state.goal))
        plan = self.planner(cost, search)
        if plan.actions.shape != search.mean.shape or not bool(plan.actions.isfinite().all()):
            raise PlanningError(
                f"planner {type(self.planner).__name__}: finite actions of shape {tuple(search.mean.shape)} expected,"
                f" got {tuple(plan.actions.shape)}{'' if plan.actions.isfinite().all() else ' with NaN or infinity'}"
            )
        if told is not None:
            known = told.view_as(plan.actions)
            plan = replace(plan, actions=torch.where(known.isnan(), plan.actions, known))
        imagined = model.rollout(context, past, plan.actions.unsqueeze(1)).squeeze(1)
        return replace(state, plan=plan, search=plan.state, planned_at=state.time, imagined=imagined)

    def _needed(self, state: State) -> bool:
        """Whether the context of a later replanning holds the latent of now, if no plan comes late."""
        ahead = (state.time + back * self.block - state.planned_at for back in range(self.history))
        return any(steps % self.config.replan_every == 0 for steps in ahead)

    def _seen(self, state: State, latents: Tensor) -> State:
        oldest = state.time - self._back * self.block
        kept = [(t, z) for t, z in zip(state.times, state.latents, strict=True) if t >= oldest]
        return replace(
            state, times=(*(t for t, _ in kept), state.time), latents=(*(z for _, z in kept), latents.contiguous())
        )

    @property
    def _back(self) -> int:
        """Blocks that what is remembered reaches back: as far as a context, or as what led to the latent of now."""
        return self.history - (self.adaptation is None)

    @property
    def _remembered(self) -> int:
        """Raw steps whose actions are kept: of a context; where lenses are found, of the latest transitions."""
        return self._back * self.block + (0 if self.lenses is None else self.lenses.near - 1)

    def _context(self, state: State, until: int = 0) -> tuple[Tensor, Tensor]:
        """Latents (B, H, N, D), `block` raw steps apart up to now, and the block actions (B, H-1, A) between them; or
        those up to so many blocks before now, with the actions up to now: (B, H-1 + until, A).
        """
        seen = dict(zip(state.times, state.latents, strict=True))
        # Where a plan came late, what was seen a block ago may not have been looked at.
        blocks = range(until, until + self.history)
        there = itertools.takewhile(seen.__contains__, (state.time - back * self.block for back in blocks))
        found = [seen[time] for time in there]
        length = len(found)
        context = torch.stack(found[::-1], dim=1) if found else state.latents[-1].new_zeros(state.batch, 0)
        steps = (length - 1 + until) * self.block
        past = state.actions[:, state.actions.shape[1] - steps :]
        return context, past.reshape(state.batch, length - 1 + until, self.block * self.spec.action.size)

    def _lived(self, state: State) -> State:
        """With what has followed on what was seen a block ago taken into account."""
        if self.adaptation is None or state.adapted is None or state.time < self.history * self.block:
            return state
        context, past = self._context(state, 1)
        if context.shape[1] < self.history:
            return state
        after = state.latents[-1]
        new = Lived(contexts=context[:, None], pasts=past[:, None, :-1], actions=past[:, -1:], after=after[:, None])
        scale = self._action_scale(state)
        adapted = self.adaptation.after(self.model, state.adapted, new, scale, time=state.time, block=self.block)
        return replace(state, adapted=adapted)

    def _through(self, state: State) -> State:
        """With what has changed in the pictures taken into account: latents of now and of the goal through a lens."""
        if self.adaptation is None or self.lenses is None or state.looked is None or state.adapted is None:
            return state
        before = state.looked
        looked = self.lenses.after(
            self.model,
            before,
            state.actions,
            self.adaptation.error(state.adapted),
            time=state.time,
            block=self.block,
            history=self.history,
        )
        state = replace(state, looked=looked)
        if torch.equal(looked.used, before.used):
            return state
        # What is remembered and what is wanted were seen otherwise.
        latents = tuple(self._encode(*looked.ago(state.time - time), looked=looked) for time in state.times)
        if looked.goal is None:
            return replace(state, latents=latents)
        goal = self._encode(*looked.goal, looked=looked)
        return replace(state, latents=latents, goal=goal, stage=towards(goal, self.distance))

    def _action_scale(self, state: State) -> Tensor:
        return state.search.scale[: self.spec.action.size]

    def _encode(
        self,
        steps: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None,
        before: Sequence[Shown] = (),
        looked: Looked | None = None,
    ) -> Tensor:
        """Latents (B, N, D) of one step of checked observations. before: vectors of the steps before it. looked: says
        through which lenses they are seen.
        """
        device = self.model.device
        here = {name: values.to(device) for name, values in steps.items()}
        seen = None if masks is None else {name: mask.to(device) for name, mask in masks.items()}
        if self.look > 1:
            shown = [*before, self._vectors(steps, masks)]
            joined = (
                {n: torch.cat([x[n] for x in each], 1).to(device) for n in each[0]} for each in zip(*shown, strict=True)
            )
            values, there = ({n: x[:, -1:] for n, x in each.items()} for each in self.model.looking_back(*joined))
            here, seen = {**here, **values}, {**(seen or {}), **there}
        if looked is not None and bool(looked.used.any()):
            here = through(self.spec, here, looked.used)
        return self.model.encode(here, seen).squeeze(1)

    def _vectors(self, steps: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None) -> Shown:
        names = [c.name for c in self.spec.observations if c.kind == "vector"]
        values = {n: steps[n] for n in names}
        if masks is None:
            return values, {n: torch.ones_like(x, dtype=torch.bool) for n, x in values.items()}
        return values, {n: masks[n] if masks[n].dim() == 3 else masks[n][..., None].expand_as(values[n]) for n in names}


def _with(told: Tensor, cost: Cost) -> Cost:
    """The cost of plans (B, S, K, A) in which what is told (B, 1, K, A) comes about, NaN where it is theirs to say."""
    return lambda plans: cost(torch.where(told.isnan(), plans, told))


def _bounds(action: ActionSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """low, high (A,) in float32, rounded inwards, so that what lies between them is within the spec's bounds."""
    limits = []
    for values, inwards in ((action.low, float("inf")), (action.high, float("-inf"))):
        exact = torch.tensor(values, dtype=torch.float64)
        near = exact.float()
        outside = near.double() < exact if inwards > 0 else near.double() > exact
        limits.append(torch.where(outside, torch.nextafter(near, torch.full_like(near, inwards)), near).to(device))
    return limits[0], limits[1]
