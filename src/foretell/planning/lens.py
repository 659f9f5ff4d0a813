"""Lenses: a picture that has moved since training, or whose hues have turned, found from what followed on actions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from foretell.errors import SpecError, require_whole
from foretell.planning.costs import Imagines
from foretell.spec import Channel, Spec

Steps = Mapping[str, Tensor]
"""By channel, (B, T, *shape)."""
Found = tuple[tuple[int, Tensor], ...]
"""What has been found, and when, the newest last."""
_SMALL, _STILL = 1e-8, 1e-3
"""What counts as change at least; as a share of the most that has changed so far through any lens."""
_LOWER = 0.9
"""Of the error through a lens that is known: another one's, to be known instead."""
_AT_ONCE = 256
"""Pictures that are encoded together: as many as a CPU's caches hold."""


class Encodes(Imagines, Protocol):
    """What lenses need of a world model."""

    @property
    def spec(self) -> Spec:
        """What it sees."""
        ...

    def encode(self, observations: Steps, valid: Steps | None = None) -> Tensor:
        """Latents (B, T, N, D) of observations (B, T, *shape)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What has been found about the pictures of B episodes so far. Nothing in it is changed in place.

    steps, masks: the latest raw steps as they came, by channel, (B, T, *shape). goal: of one step each; None where the
    goal is a cost. tried: (B, 2, L) squared errors and changes through each of L lenses, summed over transitions, each
    counting less the longer ago it is. lens: (B, 3) the best known. earlier: lenses and when they were found, the
    newest last, from a block ago on. judged: (B, 2, 2) such sums without a lens and through the one that was known when
    a transition began, over those (count) that began when one was. most: (B,) the most that has changed in one.
    used: (B, 3) what the episodes are seen through; zeros: as they come.
    """

    steps: Steps
    masks: Steps
    goal: tuple[Steps, Steps | None] | None
    tried: Tensor
    lens: Tensor
    used: Tensor
    judged: Tensor
    most: Tensor
    earlier: Found = ()
    count: int = 0

    def wanting(self, goal: tuple[Steps, Steps | None]) -> Looked:
        """With another goal: observations (B, 1, *shape) and their masks."""
        steps, masks = goal
        return replace(self, goal=(_to(steps, self.lens), None if masks is None else _to(masks, self.lens)))

    def ago(self, steps: int) -> tuple[Steps, Steps]:
        """What was seen so many raw steps ago, (B, 1, *shape), and its masks."""
        now, before = (
            {n: x[:, x.shape[1] - 1 - steps, None] for n, x in of.items()} for of in (self.steps, self.masks)
        )
        return now, before

    def selected(self, at: Tensor) -> Looked:
        """Of the episodes `at` (n,) alone."""

        def of(values: Steps) -> dict[str, Tensor]:
            return {name: x[at] for name, x in values.items()}

        goal = None if self.goal is None else (of(self.goal[0]), None if self.goal[1] is None else of(self.goal[1]))
        return replace(
            self,
            steps=of(self.steps),
            masks=of(self.masks),
            goal=goal,
            tried=self.tried[at],
            lens=self.lens[at],
            used=self.used[at],
            judged=self.judged[at],
            most=self.most[at],
            earlier=tuple((time, lens[at]) for time, lens in self.earlier),
        )


@dataclass(frozen=True, kw_only=True)
class Lenses:
    """Finds, at each replanning of an episode, through which lens the model foretells it best.

    A lens (down, right, turn) moves the picture by whole px, what comes in repeating the border, and turns all hues by
    a share of the circle. Those that are far apart are tried side by side on each new transition; around the best of
    them others are, on the latest few, a step of a pattern search (Hooke and Jeeves 1961) each time. How well one
    foretells is the squared error of a latent one block ahead, seen through it, in units of how much latents change.

    Bounded: an episode is seen through a lens only where those known when each transition began have foretold with
    half the error without, and better than a model whose actions were adapted (`Adaptation`), and have told most of
    what changed; else as it comes. Until that can be judged, only where a lens is beyond doubt by the transitions that
    it was found by. Each episode begins without.

    reach: the furthest px, of a picture of 64, of those tried side by side, and spacing: how far apart they are; more
    of larger pictures. hues: how many turns. near: latest transitions by which those around the best are told. least:
    transitions by which a lens is judged. margin: share by which its error must be lower than without. unexplained:
    largest error in units of change. beyond_doubt: share of the error without, and of change, below which two
    transitions are enough to use a lens until it can be judged. forget: what an error counts from one transition to
    the next.
    """

    reach: int = 9
    spacing: int = 3
    hues: int = 12
    near: int = 6
    least: int = 4
    margin: float = 0.5
    unexplained: float = 0.25
    beyond_doubt: float = 0.1
    forget: float = 0.9

    def __post_init__(self) -> None:
        require_whole("lenses", self, 1, "reach", "spacing", "hues", "near", "least")
        shares = (self.unexplained, self.beyond_doubt, self.forget)
        if not (0 <= self.margin < 1 and all(0 < share <= 1 for share in shares)):
            raise SpecError(
                "lenses: margin in [0, 1), unexplained, beyond_doubt and forget in (0, 1] expected, got"
                f" {self.margin}, {', '.join(map(str, shares))}"
            )

    def start(self, spec: Spec, batch: int, goal: tuple[Steps, Steps | None] | None, like: Tensor) -> Looked:
        """Nothing found yet. goal: observations (B, 1, *shape), and masks. like: of the device models compute on."""
        count = len(self._bank(spec))
        zeros = like.new_zeros(batch, 3)
        looked = Looked(
            steps={},
            masks={},
            goal=None,
            tried=like.new_zeros(batch, 2, count),
            lens=zeros,
            used=zeros,
            judged=like.new_zeros(batch, 2, 2),
            most=like.new_zeros(batch),
        )
        return looked if goal is None else looked.wanting(goal)

    def seen(self, looked: Looked, steps: Steps, masks: Steps | None, keep: int) -> Looked:
        """With one more raw step (B, 1, *shape); the latest `keep` are kept."""
        there = {
            name: (masks or {}).get(name, torch.ones(x.shape[: 2 if x.dim() == 5 else 3], dtype=torch.bool))
            for name, x in steps.items()
        }

        def kept(before: Steps, now: Steps) -> dict[str, Tensor]:
            now = _to(now, looked.lens)
            return {n: torch.cat([before[n], x], 1)[:, -keep:] if n in before else x for n, x in now.items()}

        return replace(looked, steps=kept(looked.steps, steps), masks=kept(looked.masks, there))

    def after(
        self,
        model: Encodes,
        looked: Looked,
        actions: Tensor,
        beside: Tensor,
        *,
        time: int,
        block: int,
        history: int,
    ) -> Looked:
        """With a new transition seen. actions: (B, T, A) the latest raw ones, the newest last. beside: (B,) the error
        of a model whose actions were adapted, in units of that without. time: raw steps taken until it ended. Before
        there is one nothing is found.
        """
        scored = _Scored(model, looked, actions, block, history)
        if scored.many < 1:
            return looked
        bank = self._bank(model.spec).to(looked.lens)
        new = scored.by(bank.expand(len(looked.lens), -1, -1), 1)
        most = torch.maximum(looked.most, new[:, 1].amax(1))
        # Of what rests nothing is learned.
        moving = new[:, 1].amax(1) > _STILL * most
        known, earlier = known_at(looked.earlier, time - block)
        judged = looked.judged
        if known is not None:
            told = scored.by(known[:, None], 1)
            judged = self._with(judged, torch.cat([new[:, :, :1], told], dim=2), moving)
        tried = self._with(looked.tried, new, moving)
        lens, error = self._searched(scored, looked.lens, bank, tried, most, moving)
        looked = replace(
            looked,
            tried=tried,
            judged=judged,
            most=most,
            lens=lens,
            earlier=(*earlier, (time, lens)),
            count=looked.count + (known is not None),
        )
        if looked.count < self.least:
            plain = _ratios(tried, most)[:, 0]
            better = (error < self.beyond_doubt * plain.clamp_max(1)) & (len(looked.earlier) > 1)
        else:
            plain, told = _ratios(judged, most).unbind(1)
            better = (told < plain * beside.clamp_max(1 - self.margin)) & (told < self.unexplained)
        used = torch.where(better[:, None], lens, 0.0)
        return replace(looked, used=torch.where(moving[:, None], used, looked.used))

    def _with(self, sums: Tensor, new: Tensor, moving: Tensor) -> Tensor:
        """Sums (B, 2, L) with a new transition of the episodes that move (B,)."""
        return torch.where(moving[:, None, None], self.forget * sums + new, sums)

    def _searched(
        self, scored: _Scored, lens: Tensor, bank: Tensor, tried: Tensor, most: Tensor, moving: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, 3) a step on from the best known, where one foretells better than none; else none. (B,) Its error."""
        ratios = _ratios(tried, most)
        better = ratios.amin(1) < (1 - self.margin) * ratios[:, 0]
        found, error = torch.where((moving & ~better)[:, None], 0.0, lens), ratios[:, 0].clone()
        at = torch.nonzero(moving & better)[:, 0]
        if not len(at):
            return found, error
        first, before = bank[ratios[at].argmin(1)], lens[at]
        begun = torch.where(before.any(1, keepdim=True), before, first)
        around = begun[:, None] + self._around(scored.model.spec).to(begun)
        all_of_them = torch.cat([begun[:, None], first[:, None], around], dim=1)
        errors = _ratios(scored.selected(at).by(all_of_them, min(self.near, scored.many)), most[at])
        lowest, best = errors.min(1)
        best = torch.where(lowest < _LOWER * errors[:, 0], best, 0)
        each = torch.arange(len(at), device=at.device)
        found[at], error[at] = all_of_them[each, best], errors[each, best]
        return found, error

    def _unit(self, spec: Spec) -> int:
        height, width = _camera(spec).shape[:2]
        return max(1, round(min(height, width) / 64))

    def _bank(self, spec: Spec) -> Tensor:
        """(L, 3) what is tried side by side; first, no lens."""
        unit = self._unit(spec)
        along = [k * self.spacing * unit for k in range(-(self.reach // self.spacing), self.reach // self.spacing + 1)]
        moves = sorted(((down, right, 0.0) for down in along for right in along), key=lambda move: any(move))
        turns = [(0, 0, k / self.hues) for k in range(1, self.hues)] if _camera(spec).shape[2] == 3 else []
        return torch.tensor([*moves, *turns])

    def _around(self, spec: Spec) -> Tensor:
        """(S, 3) steps of the search."""
        unit = self._unit(spec)
        moves = [(a * unit, b * unit, 0.0) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
        turns = [(0, 0, k / (4 * self.hues)) for k in (-2, -1, 1, 2)] if _camera(spec).shape[2] == 3 else []
        return torch.tensor([*moves, *turns])


def known_at(found: Found, time: int) -> tuple[Tensor | None, Found]:
    """What was known at a time, None before anything was; and what is needed for later times: that and the newer."""
    known = [what for when, what in found if when <= time]
    return (known[-1] if known else None), found[max(0, len(known) - 1) :]


def has_lens(spec: Spec, look: int) -> bool:
    """Whether lenses may be found: with one picture, and latents of one raw step each."""
    return look == 1 and sum(channel.kind == "image" for channel in spec.observations) == 1


def through(spec: Spec, observations: Steps, lens: Tensor) -> dict[str, Tensor]:
    """Observations (B, T, *shape) as they are seen through lenses (B, 3)."""
    camera = _camera(spec).name
    pictures = observations[camera]
    height, width, colours = pictures.shape[2:]
    row, column = (
        (torch.arange(side, device=lens.device) - px[:, None]).long().clamp(0, side - 1)
        for side, px in ((height, lens[:, 0]), (width, lens[:, 1]))
    )
    each = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    moved = pictures.movedim(1, 3)[each, row[:, :, None], column[:, None, :]].movedim(3, 1)
    turned = lens[:, 2] != 0
    if colours == 3 and bool(turned.any()):
        hues = torch.einsum("bthwc,bdc->bthwd", moved[turned].float(), _turns(lens[turned, 2]))
        moved[turned] = (hues + 0.5).clamp(0, 255).to(moved.dtype)
    return {**observations, camera: moved}


def _ratios(sums: Tensor, most: Tensor) -> Tensor:
    """(B, L) errors in units of change, of sums (B, 2, L) of both; 1 where a lens shows next to nothing to change."""
    least = (_STILL * most[:, None]).clamp_min(_SMALL)
    return (sums[:, 0] + least) / (sums[:, 1] + least)


def _to(values: Steps, like: Tensor) -> dict[str, Tensor]:
    return {name: x.to(like.device) for name, x in values.items()}


def _turns(shares: Tensor) -> Tensor:
    """(n, 3, 3) rotations of colours about the axis of greys, by shares (n,) of the circle."""
    angle = 2 * math.pi * shares
    across, side = (1 - angle.cos()) / 3, angle.sin() / math.sqrt(3)
    row = torch.stack([angle.cos() + across, across - side, across + side], dim=1)
    return torch.stack([row.roll(k, 1) for k in range(3)], dim=1)


def _camera(spec: Spec) -> Channel:
    return next(channel for channel in spec.observations if channel.kind == "image")


class _Scored:
    """How well the latest transitions of B episodes are foretold through lenses. many: how many there are."""

    def __init__(self, model: Encodes, looked: Looked, actions: Tensor, block: int, history: int) -> None:
        self.model, self.looked, self.actions = model, looked, actions
        self.block, self.history = block, history
        self.many = next(iter(looked.steps.values())).shape[1] - history * block

    def selected(self, at: Tensor) -> _Scored:
        """Of the episodes `at` (n,) alone."""
        return _Scored(self.model, self.looked.selected(at), self.actions[at], self.block, self.history)

    def by(self, lenses: Tensor, last: int) -> Tensor:
        """Errors and changes (B, 2, L) of the last transitions, summed, through lenses (B, L, 3)."""
        block, history = self.block, self.history
        # Raw steps before now: of what follows, and of the contexts.
        ends = list(range(last))[::-1]
        needed = sorted({end + back * block for end in ends for back in range(history + 1)})
        latents = self._latents(lenses, needed)
        at = {back: i for i, back in enumerate(needed)}
        contexts = torch.stack(
            [latents[:, :, [at[end + back * block] for back in range(history, 0, -1)]] for end in ends], dim=2
        )
        after = latents[:, :, [at[end] for end in ends]]
        count = self.actions.shape[1]
        acts = torch.stack(
            [
                self.actions[:, count - end - history * block : count - end].reshape(len(lenses), history, -1)
                for end in ends
            ],
            dim=1,
        )
        acts = acts[:, None].expand(-1, lenses.shape[1], *(-1,) * 3).flatten(0, 2)
        told = self.model.rollout(contexts.flatten(0, 2), acts[:, :-1], acts[:, None, -1:])
        parts = (told.view(after.shape) - after, contexts[:, :, :, -1] - after)
        return torch.stack([x.square().mean((-1, -2)).sum(-1) for x in parts], dim=1)

    def _latents(self, lenses: Tensor, needed: Sequence[int]) -> Tensor:
        """(B, L, n, N, D) of raw steps so many before now."""
        steps, masks = self.looked.steps, self.looked.masks
        count = lenses.shape[1]
        at = [-1 - back for back in needed]
        parts = []
        each = torch.arange(len(lenses), device=lenses.device).repeat_interleave(count)
        size = max(1, _AT_ONCE // len(needed))
        for which, lens in zip(torch.split(each, size), torch.split(lenses.flatten(0, 1), size), strict=True):
            seen = through(self.model.spec, {n: x[which][:, at] for n, x in steps.items()}, lens)
            parts.append(self.model.encode(seen, {n: x[which][:, at] for n, x in masks.items()}))
        found = torch.cat(parts)
        return found.view(len(lenses), count, *found.shape[1:])
