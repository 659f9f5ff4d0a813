"""Adapts within an episode: what actions do here, told from what followed on them, used only where it tells more."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.errors import SpecError, require_whole
from foretell.planning.costs import Imagines
from foretell.planning.lens import Found, Lenses, known_at

_SMALL = 1e-8
_DIFFERENCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Lived:
    """What followed on what, the newest last, M transitions of B episodes.

    contexts: (B, M, H, N, D) latents, a block apart. pasts: (B, M, H-1, A) the block actions between them, actions:
    (B, M, A) the one after the last of them. after: (B, M, N, D) the latents that followed on it.
    """

    contexts: Tensor
    pasts: Tensor
    actions: Tensor
    after: Tensor

    def latest(self, count: int) -> Lived:
        """The last so many transitions."""
        return Lived(**{name: x[:, -count:] for name, x in vars(self).items()})

    def then(self, other: Lived) -> Lived:
        """These and then those."""
        return Lived(**{name: torch.cat([x, getattr(other, name)], dim=1) for name, x in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What has been found about B episodes so far. Nothing in it is changed in place.

    values: (B, P), see `Adaptation`; zero for a world as it was. lived: the transitions that they are fitted to, None
    before the first. earlier: values and when they were found, the newest last, from a block ago on. frozen, adapted:
    (B,) squared errors of the model as it is and as adapted by what was known when a transition began, summed over the
    transitions, (count) of them, that began when something was.
    """

    values: Tensor
    lived: Lived | None = None
    earlier: Found = ()
    frozen: Tensor
    adapted: Tensor
    count: int = 0

    def selected(self, at: Tensor) -> Adapted:
        """Of the episodes `at` (n,) alone."""
        lived = None if self.lived is None else Lived(**{name: x[at] for name, x in vars(self.lived).items()})
        return replace(
            self,
            values=self.values[at],
            lived=lived,
            earlier=tuple((time, values[at]) for time, values in self.earlier),
            frozen=self.frozen[at],
            adapted=self.adapted[at],
        )


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Fits, at each replanning of an episode, how its world differs from the one that was learned, in a few values.

    The values: what of each action the actuators do (a matrix, A x A raw actions), what they do without being told (A),
    and, for a model of several latents, how far what moved goes on to. A step of Gauss and Newton's with a ridge
    towards 'nothing has changed' (Levenberg 1944, Marquardt 1963), the derivatives by differences; models need not be
    differentiable. A few values instead of the model's weights, which AdaJEPA (arXiv 2606.32026) moves at each
    replanning: a handful of transitions tells no more.

    Bounded: an episode is planned with its values only where those known when each transition began had foretold it
    better than the model as it is, over the transitions so far, each counting less the longer ago it is; else the model
    stays as it is.

    memory: latest transitions that are fitted. steps: of the fit at each replanning. ridge: weight of the values'
    squares beside the mean squared error in units of how much latents change, once the memory is full; more before.
    least: transitions before they are used. margin: share by which errors must be lower. forget: what an error counts
    from one transition to the next. reach: the largest value, either way. lenses: find what has changed in the picture,
    for models that see one; an episode that is seen through a lens is planned without values. None leaves them out.
    """

    memory: int = 12
    steps: int = 1
    ridge: float = 0.01
    least: int = 4
    margin: float = 0.5
    forget: float = 0.9
    reach: float = 3.0
    lenses: Lenses | None = Lenses()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        require_whole("adaptation", self, 1, "memory", "steps", "least")
        if not (self.ridge > 0 and 0 <= self.margin < 1 and 0 < self.forget <= 1 and self.reach > 0):
            raise SpecError(
                f"adaptation: ridge and reach above 0, margin in [0, 1) and forget in (0, 1] expected, got {self}"
            )

    def start(self, batch: int, action: int, history: int, like: Tensor) -> Adapted:
        """Nothing found yet. action: values of a raw action. like: of the device that models compute on."""
        zeros = like.new_zeros(batch)
        size = action * action + action + (history > 1)
        return Adapted(values=like.new_zeros(batch, size), frozen=zeros, adapted=zeros)

    def used(self, found: Adapted) -> Tensor:
        """(B,) whether an episode is planned with its values."""
        better = found.adapted < (1 - self.margin) * found.frozen
        return better if found.count >= self.least else torch.zeros_like(better)

    def error(self, found: Adapted) -> Tensor:
        """(B,) of the model as adapted, in units of the model's as it is; 1 where too little is known."""
        ratio = found.adapted / found.frozen.clamp_min(_SMALL)
        return ratio if found.count >= self.least else torch.ones_like(ratio)

    def after(self, model: Imagines, found: Adapted, new: Lived, scale: Tensor, *, time: int, block: int) -> Adapted:
        """With a new transition seen. scale: (A,) typical size of a raw action. time: raw steps taken until it ended,
        block: those that it took.
        """
        known, earlier = known_at(found.earlier, time - block)
        if known is not None:
            plain, told = (
                _errors(model, new, values, scale).square().mean((-1, -2)).sum(1)
                for values in (torch.zeros_like(found.values), known)
            )
            many = new.after.shape[1]
            frozen, adapted = (self.forget * x for x in (found.frozen, found.adapted))
            found = replace(found, frozen=frozen + plain, adapted=adapted + told, count=found.count + many)
        lived = new if found.lived is None else found.lived.then(new)
        lived = lived.latest(self.memory)
        values = found.values
        for _ in range(self.steps):
            values = self._stepped(model, lived, values, scale)
        return replace(found, values=values, lived=lived, earlier=(*earlier, (time, values)))

    def model(self, model: Imagines, found: Adapted, scale: Tensor, but: Tensor | None = None) -> Imagines:
        """The model as these episodes are planned with; but (B,) those that have changed otherwise."""
        used = self.used(found) if but is None else self.used(found) & ~but
        if not bool(used.any()):
            return model
        return _Adapted(model, torch.where(used[:, None], found.values, 0.0), scale)

    def _stepped(self, model: Imagines, lived: Lived, values: Tensor, scale: Tensor) -> Tensor:
        count = values.shape[1]
        shifts = torch.cat([values.new_zeros(1, count), _DIFFERENCE * torch.eye(count).to(values)])
        # All shifts of all episodes side by side: (P + 1) * B of them.
        tiled = Lived(**{name: x.repeat(len(shifts), *(1,) * (x.dim() - 1)) for name, x in vars(lived).items()})
        moved = (shifts[:, None] + values).flatten(0, 1)
        errors = _errors(model, tiled, moved, scale).reshape(len(shifts), len(values), -1)
        # As many squares as there are transitions stand against it.
        ridge = self.ridge * self.memory / lived.after.shape[1]
        unit = _spread(lived).sqrt()[:, None] * errors.shape[2] ** 0.5
        now = errors[0] / unit
        slopes = (errors[1:] - errors[:1]).permute(1, 2, 0) / (_DIFFERENCE * unit[..., None])
        curve = slopes.mT @ slopes + ridge * torch.eye(count).to(values)
        pull = slopes.mT @ now[..., None] + ridge * values[..., None]
        step: Tensor = torch.linalg.solve(curve, pull)[..., 0]
        return (values - step).clamp(-self.reach, self.reach)


@dataclass(frozen=True)
class _Adapted:
    """A model whose episodes differ, each in its own way: values (B, P)."""

    base: Imagines
    values: Tensor
    scale: Tensor

    def rollout(self, context: Tensor, past: Tensor, plan: Tensor) -> Tensor:
        """As `Imagines.rollout`."""
        batch, samples, steps = plan.shape[:3]
        values = self.values.repeat_interleave(samples, 0)
        latents = context.repeat_interleave(samples, 0)
        acts = past.repeat_interleave(samples, 0)
        found = []
        for k in range(steps):
            action = plan[:, :, k].flatten(0, 1)
            after = _next(self.base, latents, acts, action, values, self.scale)
            found.append(after)
            # Of what is older than its history the model takes no notice.
            latents, acts = torch.cat([latents, after[:, None]], dim=1), torch.cat([acts, action[:, None]], dim=1)
        return torch.stack(found, dim=1).view(batch, samples, steps, *context.shape[2:])


def _next(model: Imagines, context: Tensor, past: Tensor, action: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Latents (B, N, D) after contexts (B, H, N, D), pasts (B, H-1, A) and actions (B, A), with values (B, P)."""
    size = len(scale)
    matrix, free = values[:, : size * size].reshape(-1, size, size), values[:, size * size : size * size + size]

    def acted(blocks: Tensor) -> Tensor:
        raw = blocks.reshape(*blocks.shape[:-1], blocks.shape[-1] // size, size) / scale
        done = raw + torch.einsum("bij,b...j->b...i", matrix, raw) + free.view(-1, *(1,) * (raw.dim() - 2), size)
        return (done * scale).flatten(-2)

    now = context[:, -1]
    if values.shape[1] > size * size + size:
        goes_on = values[:, -1, None, None, None]
        context = now[:, None] + (1 + goes_on) * (context - now[:, None])
    return model.rollout(context, acted(past), acted(action)[:, None, None])[:, 0, 0]


def _errors(model: Imagines, lived: Lived, values: Tensor, scale: Tensor) -> Tensor:
    """What the model with values (B, P) tells of the transitions, less what followed: (B, M, N, D)."""
    many = lived.after.shape[1]
    flat = Lived(**{name: x.flatten(0, 1) for name, x in vars(lived).items()})
    told = _next(model, flat.contexts, flat.pasts, flat.actions, values.repeat_interleave(many, 0), scale)
    return told.view(lived.after.shape) - lived.after


def _spread(lived: Lived) -> Tensor:
    """(B,) by how much latents changed in these transitions: mean squares."""
    return (lived.after - lived.contexts[:, :, -1]).square().mean((1, 2, 3)).clamp_min(_SMALL)
