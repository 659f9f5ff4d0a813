"""Plan support: whether a plan stays with states like those of training, and with what was done in them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foretell.errors import DataError, SpecError, require_whole
from foretell.model.world_model import WorldModel
from foretell.trust.conformal import p_values, quantile, require_enough
from foretell.trust.residuals import imagined_from

BLOCKS = 13
"""Blocks of the longest plan that is judged as a whole; of longer ones each later block is judged like the last."""
STATES = 2000
"""Training states that others are compared with, at most."""
ALIKE = 32
"""Training states whose actions are those 'seen there'."""
PLANS = 4
"""Stretches of each training episode that tell what is typical."""
_AT_ONCE = 128

What = Literal["states", "actions"]
KINDS: tuple[What, What] = ("states", "actions")


@dataclass(frozen=True)
class Leaves:
    """Where a plan first leaves what training covered.

    step: of the plan, in raw steps from 1. what: which of both. p: the share of ordinary plans that go as far.
    """

    step: int
    what: What
    p: float

    def __str__(self) -> str:
        return f"plan leaves the {self.what} seen in training at step {self.step} (p = {self.p:.1g})"


class Support(nn.Module):
    """Compares a plan with training by nearest neighbours.

    A *state* is as far out as the nearest training state is away; an *action* as far as the nearest of those taken in
    the `ALIKE` training states most like the one that it is taken in: an action that is usual elsewhere may never
    have been tried here. Both grow with the horizon even on ordinary plans, as imagination blurs, and are told as
    multiples of what is typical at that horizon.

    states: (R, S) latents in units of `spread` (S,). actions: (R, block * A) taken there, raw steps side by side, in
    units of `reach` (block * A,). typical: (2, K) by kind and horizon. furthest: (2, n) ascending, the highest multiple
    of each calibration plan.
    """

    def __init__(self, *, latent: int, action: int, block: int, states: int, blocks: int, plans: int = 0) -> None:
        super().__init__()
        sizes = {"latent": latent, "action": action, "block": block, "states": states, "blocks": blocks}
        require_whole("support", SimpleNamespace(**sizes), 1, *sizes)
        self.block, self.blocks = block, blocks
        self.register_buffer("states", torch.zeros(states, latent))
        self.register_buffer("spread", torch.ones(latent))
        self.register_buffer("actions", torch.zeros(states, block * action))
        self.register_buffer("reach", torch.ones(block * action))
        self.register_buffer("typical", torch.ones(len(KINDS), blocks))
        self.register_buffer("furthest", torch.zeros(len(KINDS), plans))

    @property
    def plans(self) -> int:
        """How many calibration plans limits are set by."""
        return self.get_buffer("furthest").shape[1]

    @torch.no_grad()
    def distances(self, latents: Tensor, plans: Tensor) -> tuple[Tensor, Tensor]:
        """How far states and actions are from those of training, before they are put in proportion.

        latents: (..., K + 1, N, D), now and after each block. plans: (..., K, block * A) raw. Returns (..., K) for the
        states that the blocks lead to, and (..., K, block) for the actions.
        """
        shape, count, size = plans.shape[:-1], plans.shape[-2], plans.shape[-1] // self.block
        known, taken = self.get_buffer("states"), self.get_buffer("actions")
        states = (latents.flatten(-2) / self.get_buffer("spread")).reshape(-1, count + 1, known.shape[1])
        acts = (plans / self.get_buffer("reach")).reshape(-1, count, self.block, size)
        near, nearest = [], []
        for some, done in zip(torch.split(states, _AT_ONCE), torch.split(acts, _AT_ONCE), strict=True):
            away = torch.cdist(some, known)
            near.append(away[:, 1:].amin(-1))
            alike = away[:, :-1].topk(min(ALIKE, len(known)), largest=False).indices
            nearest.append(torch.cdist(done, taken[alike].reshape(*done.shape[:2], -1, size)).amin(-1))
        return torch.cat(near).view(*shape), torch.cat(nearest).view(*shape, self.block)

    def multiples(self, latents: Tensor, plans: Tensor) -> tuple[Tensor, Tensor]:
        """`distances` as multiples of what is typical at each horizon, of the same shapes."""
        at = torch.arange(plans.shape[-2]).clamp(max=self.blocks - 1)
        states, actions = self.distances(latents, plans)
        typical = self.get_buffer("typical")[:, at]
        return states / typical[0], actions / typical[1][:, None]

    def leaves(self, latents: Tensor, plan: Tensor, *, level: float = 0.05) -> tuple[Leaves, ...]:
        """Where one plan leaves the states, and where the actions, of training; nothing where it stays.

        latents: (K + 1, N, D), now and imagined. plan: (K, block * A) raw. level: the share of plans like those of
        calibration episodes that may be told to leave, half of it for each kind.
        Raises DataError where calibration plans are too few for it.
        """
        (found,) = self.all_leaves(latents[None], plan[None], level=level)
        return found

    def all_leaves(self, latents: Tensor, plans: Tensor, *, level: float = 0.05) -> list[tuple[Leaves, ...]]:
        """`leaves` of each of M plans: latents (M, K + 1, N, D), plans (M, K, block * A)."""
        limits = self.limits(level)
        states, actions = self.multiples(latents, plans)
        # A state is reached with the last action of its block.
        reached = torch.zeros_like(actions)
        reached[..., -1] = states
        found: list[list[Leaves]] = [[] for _ in plans]
        for kind, far in enumerate((reached.flatten(1), actions.flatten(1))):
            out = far > limits[kind]
            p = p_values(self.get_buffer("furthest")[kind], far.amax(1))
            for i in out.any(1).nonzero()[:, 0].tolist():
                found[i].append(Leaves(int(out[i].float().argmax()) + 1, KINDS[kind], float(p[i])))
        return [tuple(sorted(each, key=lambda leaves: leaves.step)) for each in found]

    def inside(self, weight: float, *, level: float = 0.05) -> Callable[[Tensor, Tensor], Tensor]:
        """A cost for planners: `weight` times how far plans go beyond the limits of `leaves`, summed over steps.

        Returns a function of latents (B, S, K + 1, N, D) and plans (B, S, K, block * A) to (B, S); see
        `planning.Controller(inside=...)`. A weight far above all other costs makes it a constraint: of two plans the
        one that leaves less wins.
        """
        if not 0 <= weight < float("inf"):
            raise SpecError(f"support: a weight of 0 or more expected, got {weight!r}")
        limits = self.limits(level)

        def cost(latents: Tensor, plans: Tensor) -> Tensor:
            states, actions = self.multiples(latents.cpu(), plans.cpu())
            beyond = torch.relu(states / limits[0] - 1).sum(-1) + torch.relu(actions / limits[1] - 1).sum((-2, -1))
            return weight * beyond.to(plans)

        return cost

    def limits(self, level: float) -> Tensor:
        """(2,) the multiples beyond which a plan leaves training; DataError where calibration plans are too few."""
        furthest = self.get_buffer("furthest")
        require_enough(self.plans, level / len(KINDS), "plan support")
        return quantile(furthest.T, 1 - level / len(KINDS))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        states, latent = self.get_buffer("states").shape
        return {
            "latent": latent,
            "action": self.get_buffer("actions").shape[1] // self.block,
            "block": self.block,
            "states": states,
            "blocks": self.blocks,
            "plans": self.plans,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Support:
        """Of that configuration, its values not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return Support(**data)
        except TypeError as error:
            raise SpecError(f"not a plan support: {error}") from error


@torch.no_grad()
def fit_support(model: WorldModel, latents: Sequence[Tensor], actions: Sequence[Tensor], *, seed: int) -> Support:
    """What states and actions the training episodes cover; not calibrated yet.

    latents: (T, N, D) of every step of each episode. actions: (T - 1 or more, A) raw. Half of the episodes are compared
    with, the others tell what is typical of ordinary plans. Raises DataError where fewer than two are long enough for
    a block, SpecError without actions.
    """
    if not model.action_size:
        raise SpecError("plan support: the spec names no actions, so there is nothing to plan")
    block = model.config.block
    long = [(z, a) for z, a in zip(latents, actions, strict=True) if len(z) > model.config.history * block]
    if len(long) < 2:
        raise DataError(f"plan support: two episodes of more than {model.config.history * block} steps expected")
    states = torch.cat([z[: len(z) - block].flatten(1) for z, _ in long[0::2]])
    taken = torch.cat([a[: len(z) - 1].unfold(0, block, 1).transpose(1, 2).flatten(1) for z, a in long[0::2]])
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(states), generator=generator)[:STATES]
    each = torch.cat([a[: len(z) - 1] for z, a in long]).std(0, correction=0).clamp_min(1e-6)
    blocks = min(BLOCKS, min(_blocks(model, z) for z, _ in long))
    made = Support(latent=states.shape[1], action=model.spec.action.size, block=block, states=len(some), blocks=blocks)
    spread = states.std(0, correction=0).clamp_min(1e-6)
    made.get_buffer("spread").copy_(spread)
    made.get_buffer("reach").copy_(each.repeat(block))
    made.get_buffer("states").copy_(states[some] / spread)
    made.get_buffer("actions").copy_(taken[some] / each.repeat(block))
    found = [made.distances(*_plans(model, z, a, blocks)) for z, a in long[1::2]]
    for kind in range(len(KINDS)):
        far = torch.cat([each[kind].reshape(-1, blocks, each[kind][0, 0].numel()) for each in found])
        ordinary = far.transpose(0, 1).flatten(1).quantile(0.95, dim=1)
        made.get_buffer("typical")[kind] = ordinary.clamp_min(1e-6)
    return made


def calibrate_support(
    fitted: Support, model: WorldModel, seen: Iterable[tuple[Tensor, Tensor]], *, seed: int
) -> Support:
    """The same, calibrated on latents and actions of episodes that the model was not trained on.

    Of each, one stretch of what was done, drawn by `seed`, is taken as a plan: plans of one episode would depend on
    each other. Raises DataError where no episode is as long as a plan.
    """
    generator = torch.Generator().manual_seed(seed)
    furthest: list[Tensor] = []
    for latents, actions in seen:
        spare = _blocks(model, latents) - fitted.blocks
        if spare >= 0:
            first = int(torch.randint(spare * fitted.block + 1, (), generator=generator))
            states, acts = fitted.multiples(*_plans(model, latents[first:], actions[first:], fitted.blocks, count=1))
            furthest.append(torch.stack([states.amax(-1), acts.amax((-2, -1))]))
    if not furthest:
        steps = (fitted.blocks + model.config.history - 1) * fitted.block
        raise DataError(f"plan support: calibration episodes of more than {steps} steps expected, there are none")
    every = torch.cat(furthest, dim=1).sort(dim=1).values
    made = Support.from_json({**fitted.to_json(), "plans": every.shape[1]})
    for name, value in fitted.named_buffers():
        if name != "furthest":
            made.get_buffer(name).copy_(value)
    made.get_buffer("furthest").copy_(every)
    return made.eval()


def _blocks(model: WorldModel, latents: Tensor) -> int:
    """Blocks that can be imagined from an episode's first context with what was seen to compare."""
    return (len(latents) - 1) // model.config.block - (model.config.history - 1)


def _plans(
    model: WorldModel, latents: Tensor, actions: Tensor, blocks: int, count: int = PLANS
) -> tuple[Tensor, Tensor]:
    """Latents (P, blocks + 1, N, D) and action blocks (P, blocks, block * A) of `count` stretches of an episode, the
    first from its start, as plans.
    """
    starts, plan, imagined = imagined_from(model, latents, actions, blocks)
    inside = int((starts + blocks * model.config.block < len(latents)).sum())
    at = torch.linspace(0, inside - 1, min(count, inside)).round().long()
    return torch.cat([latents[starts[at]][:, None], imagined[at]], dim=1), plan[at]
