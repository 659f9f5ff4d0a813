"""Practice: an actor and a critic learn in the model's imagination, from nothing but what plans found there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from foretell.errors import DataError, SpecError, require_whole
from foretell.model.actor_critic import ActorCritic, ActorCriticConfig, Sought
from foretell.model.noise import coloured_noise, noise
from foretell.model.world_model import WorldModel


@dataclass(frozen=True, kw_only=True)
class Practice(Sought):
    """How an actor and a critic are learned in imagination; 0 steps leave them out."""

    steps: int = 0
    """Searches of all ways that are practised side by side, each followed by optimiser steps."""
    batch: int = 2048
    """Ways that are practised side by side."""
    horizon: int = 4
    """Blocks that are searched ahead; what comes then the critic tells."""
    candidates: int = 64
    """Plans in the first round of a search; the second has half as many, around the best."""
    updates: int = 6
    """Optimiser steps after each search."""
    learning_rate: float = 1e-3
    """Of Adam; it falls to zero over the last two fifths of the steps."""
    reach: int = 80
    """How far a goal is from where a way begins in a recorded episode, raw steps at most, before it or after it."""
    elsewhere: float = 0.3
    """Share of goals that are of another episode."""
    length: int = 23
    """Blocks after which a way begins anew elsewhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("practice", self, 0, "steps")
        require_whole("practice", self, 1, "batch", "horizon", "updates", "reach", "length")
        require_whole("practice", self, 2 * _ELITES, "candidates")
        if not (0 < self.learning_rate < float("inf") and 0 <= self.elsewhere <= 1):
            raise SpecError(
                "practice: learning_rate above 0 and elsewhere in [0, 1] expected, got"
                f" {self.learning_rate!r} and {self.elsewhere!r}"
            )

    def actor_critic(self, model: WorldModel, latent: int) -> ActorCriticConfig:
        """The sizes of what is learned for this model, whose latents have so many values."""
        return ActorCriticConfig(latent=latent, action=model.action_size, **self.sought())

    @staticmethod
    def of(config: ActorCriticConfig) -> Practice:
        """By which such an actor and critic may practise on; 0 steps."""
        return Practice(**config.sought())


_ELITES = 8
"""Of a round of a search, around which the next one looks."""
_DEVIATION, _BETA, _LEAST = 1.0, 2.0, 0.02
"""Of the plans that a search begins with, in standard deviations of recorded actions: half of them are so far from
nothing, half of them half as far from what the actor does. Their colour. The least of the second round."""
_TRACE = 0.7
"""Lambda of the returns (Sutton and Barto 2018, section 12.1)."""
_LATEST, _MINIBATCH = 32, 4096
"""Searches that are learned from, the last ones; what of them is learned from in an optimiser step."""
_SLOWLY = 0.01
"""How far the critic that searches are made with follows the one that learns, an optimiser step."""
_ASTRAY, _SHAKEN, _CHANGED = 0.3, 0.5, 0.05
"""Noise on the actions taken, in standard deviations of recorded ones, and on how many of them; share of goals that
change at each block."""
_AT_ONCE, _CACHED = 2**18, 4096
"""Plans that are imagined together: as many as there is memory for; on a CPU as many as its caches hold."""

Ways = tuple[Tensor, Tensor, Tensor]
"""Ways of n: contexts (n, H, N, D), actions between these (n, H-1, A), raw units, and goals (n, N, D)."""


def practise(
    model: WorldModel,
    latents: Sequence[Tensor],
    actions: Sequence[Tensor],
    config: Practice,
    *,
    seed: int,
    init: ActorCritic | None = None,
    fast: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> ActorCritic:
    """An actor and a critic of ways from and to states of these episodes, as the model imagines them.

    latents: of every raw step of each episode, (steps, N, D), frozen. actions: theirs, (steps - 1, A), raw units.
    Value iteration, whose maximum is a search: at each state of a way plans are searched for that are good by what the
    model imagines and by what the critic says of where they end; the critic learns what the best of them costs, the
    actor what it begins with, and the next state follows (planning by the cross-entropy method with a learned value at
    its end: Lowrey et al. 2019, "Plan online, learn offline", arXiv 1811.01848; with policy proposals: Hansen et al.
    2022, "Temporal difference learning for model predictive control", arXiv 2203.04955). So what is found out a few
    blocks ahead spreads to any distance, and what is practised with is not what was recorded but what leads there.
    init: what has practised before, to go on from. fast: matrix products in bfloat16, near enough for searches, which
    compare. on_step: called with the number of steps done. Raises DataError where no episode is longer than one block.
    """
    if model.action_size == 0:
        raise SpecError("practice: the spec names no actions")
    if max((len(x) for x in latents), default=0) <= model.config.block * model.config.history:
        raise DataError(f"practice: episodes of more than {model.config.block * model.config.history} steps expected")
    return _Practice(model, latents, actions, config, seed, init, fast).run(on_step)


class _Practice:
    def __init__(
        self,
        model: WorldModel,
        latents: Sequence[Tensor],
        actions: Sequence[Tensor],
        config: Practice,
        seed: int,
        init: ActorCritic | None,
        fast: bool,
    ) -> None:
        self.model, self.config, device = model, config, model.device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.states = _States(model, latents, actions, self.generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = config.actor_critic(model, latents[0][0].numel())
            self.learner, self.target = ActorCritic(sizes).to(device), ActorCritic(sizes).to(device)
        if init is not None:
            self.learner.load_state_dict(init.state_dict())
        self.target.load_state_dict(self.learner.state_dict())
        self.optimiser = torch.optim.Adam(self.learner.parameters(), lr=config.learning_rate)
        self.fast = torch.autocast(device.type, torch.bfloat16, enabled=fast)

    def run(self, on_step: Callable[[int], None] | None) -> ActorCritic:
        """Practise."""
        config, latest = self.config, list[tuple[Tensor, Tensor, Tensor, Tensor]]()
        ways = self.states.ways(config)
        age = self._integers(config.length, config.batch)
        for step in range(config.steps):
            plans = self._searched(ways)
            latest = [*latest, self._found(ways, plans)][-_LATEST:]
            self._learn(latest, min(1.0, 2.5 * (1 - step / config.steps)))
            ways, age = self._gone_on(ways, plans, age)
            if on_step is not None:
                on_step(step + 1)
        return self.learner.eval().requires_grad_(False)

    @torch.no_grad()
    def _searched(self, ways: Ways) -> Tensor:
        """(n, K, A) the best plan of each way that a search of two rounds finds, normalised."""
        count, half = len(ways[2]), self.config.candidates // 2
        base = self._acted(ways)[:, None]
        plans = torch.cat([base, base + 0.5 * self._noise(count, half - 1), self._noise(count, half)], dim=1)
        plans, costs = self._scored(ways, plans)
        costs, best = costs.topk(_ELITES, dim=1, largest=False)
        elites = plans.gather(1, best[:, :, None, None].expand(-1, -1, *plans.shape[2:]))
        mean, deviation = elites.mean(1, keepdim=True), elites.std(1, keepdim=True) + _LEAST
        around = torch.cat([mean, mean + deviation * self._noise(count, half)], dim=1)
        around, others = self._scored(ways, around)
        plans, costs = torch.cat([elites, around], dim=1), torch.cat([costs, others], dim=1)
        return plans[torch.arange(count, device=plans.device), costs.argmin(1)]

    def _scored(self, ways: Ways, plans: Tensor) -> tuple[Tensor, Tensor]:
        """Plans (n, S, K, A) within bounds, and what they cost (n, S)."""
        plans = self._within(plans)
        some = max(1, (_CACHED if plans.device.type == "cpu" else _AT_ONCE) // plans.shape[1])
        with self.fast:
            parts = zip(*(torch.split(x, some) for x in (*ways, plans)), strict=True)
            found = [self.target.along(self._imagined((z, a, g), p), g).sum(-1) for z, a, g, p in parts]
        return plans, torch.cat(found)

    @torch.no_grad()
    def _found(self, ways: Ways, plans: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a search has taught: states, goals, the block that follows and what the way costs, of its first two."""
        context, _, goal = ways
        with self.fast:
            there = self._imagined(ways, plans[:, None])[:, 0]
            goals = goal[:, None].expand_as(there)
            (costs, on), values = self.learner.step(there, goals), self.target.value(there, goals)
        came, returns = values[:, -1], list[Tensor]()
        for k in reversed(range(plans.shape[1])):
            came = costs[:, k] + self.config.discount * on[:, k] * torch.lerp(values[:, k], came, _TRACE)
            returns.insert(0, came)
        begins = torch.cat([context[:, -1:], there], dim=1)
        first = slice(0, min(2, plans.shape[1]))
        found = (begins[:, first], goals[:, first], plans[:, first], torch.stack(returns, 1)[:, first])
        return tuple(x.flatten(0, 1).float() for x in found)  # type: ignore[return-value]

    def _learn(self, latest: Sequence[tuple[Tensor, ...]], share: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * share
        states, goals, blocks, returns = (torch.cat(part) for part in zip(*latest, strict=True))
        longest = 1 / (1 - self.config.discount)
        for _ in range(self.config.updates):
            at = self._integers(len(states), min(_MINIBATCH, len(states)))
            with self.fast:
                told, done = self.learner.value(states[at], goals[at]), self.learner.act(states[at], goals[at])
            value = 20 * functional.smooth_l1_loss(told / longest, returns[at] / longest, beta=0.05)
            loss = value + functional.huber_loss(done, blocks[at], delta=0.5)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.learner.parameters(), 5.0)
            self.optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(self.target.parameters()), list(self.learner.parameters()), _SLOWLY)

    @torch.no_grad()
    def _gone_on(self, ways: Ways, plans: Tensor, age: Tensor) -> tuple[Ways, Tensor]:
        """One block later; ways that are old or lost begin anew."""
        context, past, goal = ways
        block, shape = plans[:, 0], age.shape
        shaken = torch.rand(shape, generator=self.generator, device=age.device) < _SHAKEN
        block = block + _ASTRAY * shaken[:, None] * noise(tuple(block.shape), self.generator, block)
        context, past = self._after(context, past, self._within(block))
        age = age + 1
        over = (age >= self.config.length) | (context[:, -1].abs().flatten(1).amax(1) > self.states.largest)
        anew = self.states.ways(self.config)
        turned = over | (torch.rand(shape, generator=self.generator, device=age.device) < _CHANGED)
        ways = (_chosen(over, anew[0], context), _chosen(over, anew[1], past), _chosen(turned, anew[2], goal))
        return ways, age.masked_fill(over, 0)

    def _acted(self, ways: Ways) -> Tensor:
        """(n, K, A) what the actor does, block by block, normalised."""
        context, past, goal = ways
        plan: list[Tensor] = []
        while len(plan) < self.config.horizon:
            with self.fast:
                plan.append(self.learner.act(context[:, -1], goal))
            if len(plan) < self.config.horizon:
                context, past = self._after(context, past, plan[-1])
        return torch.stack(plan, dim=1)

    def _after(self, context: Tensor, past: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """Context and past after normalised actions (n, A)."""
        with self.fast:
            return self.model.after(context, past, self.model.raw_actions(block))

    def _imagined(self, ways: Ways, plans: Tensor) -> Tensor:
        """(n, S, K, N, D)."""
        return self.model.rollout(ways[0], ways[1], self.model.raw_actions(plans))

    def _within(self, plans: Tensor) -> Tensor:
        bound = self.learner.config.bound
        return self.states.allowed(plans.clamp(-bound, bound))

    def _noise(self, count: int, plans: int) -> Tensor:
        """(count, plans, K, A), coloured along the raw steps."""
        block, size = self.model.config.block, self.model.spec.action.size
        raw = coloured_noise(
            (count, plans, size, self.config.horizon * block), _BETA, self.generator, self.states.latents
        )
        return _DEVIATION * raw.transpose(-1, -2).reshape(count, plans, self.config.horizon, block * size)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.model.device)


class _States:
    """States of the recorded episodes, all one after the other, and the actions between them."""

    def __init__(
        self, model: WorldModel, latents: Sequence[Tensor], actions: Sequence[Tensor], generator: torch.Generator
    ) -> None:
        device, config = model.device, model.config
        self.model, self.generator = model, generator
        self.latents = torch.cat(list(latents)).float().to(device)
        # An episode's last step leads nowhere: a row of zeros keeps actions and latents in step.
        rows = (functional.pad(a[: len(z) - 1], (0, 0, 0, 1)) for z, a in zip(latents, actions, strict=True))
        self.actions = torch.cat(list(rows)).float().to(device)
        # Ways beyond are given up: imagination has left what can be.
        self.largest = float(self.latents.abs().max())
        lengths = torch.tensor([len(z) for z in latents])
        first = lengths.cumsum(0) - lengths
        self.back = (config.history - 1) * config.block
        usable = torch.cat(
            [f + torch.arange(min(self.back, int(n)), int(n)) for f, n in zip(first, lengths, strict=True)]
        )
        self.usable = usable.to(device)
        self.first = first.repeat_interleave(lengths).to(device)
        self.last = (first + lengths - 1).repeat_interleave(lengths).to(device)
        ends = (torch.tensor(e, dtype=torch.float32) for e in (model.spec.action.low, model.spec.action.high))
        low, high = (model.normalise_actions(e.to(device).repeat(config.block)) for e in ends)
        self.low, self.high = low, high

    def allowed(self, plans: Tensor) -> Tensor:
        """Normalised actions (..., A) within the spec's bounds."""
        return plans.clamp(self.low, self.high)

    def ways(self, config: Practice) -> Ways:
        """Drawn anew: from any state to one before it or after it, or to one elsewhere."""
        device, count = self.latents.device, config.batch

        def uniform() -> Tensor:
            return torch.rand(count, generator=self.generator, device=device)

        at = self.usable[(uniform() * len(self.usable)).long().clamp_max(len(self.usable) - 1)]
        ahead = 1 + (uniform() * config.reach).long()
        ahead = torch.where(uniform() < 0.5, ahead, -ahead)
        first, last = self.first[at], self.last[at]
        outside = (at + ahead < first) | (at + ahead > last)
        goal = self.latents[torch.where(outside, at - ahead, at + ahead).clamp(first, last)]
        mixed = torch.randperm(count, generator=self.generator, device=device)
        goal = _chosen(uniform() < config.elsewhere, goal[mixed], goal)
        block = self.model.config.block
        context = self.latents[at[:, None] + torch.arange(-self.back, 1, block, device=device)]
        past = self.actions[at[:, None] + torch.arange(-self.back, 0, device=device)]
        return context, past.reshape(count, -1, self.model.action_size), goal


def _chosen(which: Tensor, these: Tensor, others: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (these.dim() - 1)), these, others)
