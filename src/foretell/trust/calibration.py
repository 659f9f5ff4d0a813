"""What a run needs to know when it is not to be trusted: fitted on training episodes, calibrated on others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from foretell.errors import DataError, SpecError
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.trust.conformal import check_level, needed, p_values, quantile, require_enough, tail_of, tail_p_values
from foretell.trust.evidence import change_weight, greatest, passing, persistent
from foretell.trust.novelty import Novelty, fit_novelty, places_of
from foretell.trust.residuals import Residuals, last_residuals, residuals
from foretell.trust.surprise import ResidualLaw, fit_residual_law

LATE = 0.2
"""What surprise and novelty, half each, may use of a level of false alarms beyond the calibration episodes' length."""
NEW = (0.15, 0.3)
"""What novelty may use before: at least and, where calibration episodes are few, at most. Surprise gets all the rest:
a jump shows once, what is new goes on being new.
"""
LASTING = 0.01
"""Weight of lasting surprise beside sudden one: with more of it ordinary episodes reach as high as those it is for."""
BLOCKS = 2
"""Blocks of the longest prediction that surprise looks at."""
FRAMES = 8
"""Steps of each training episode that novelty is fitted on."""
_STEPS_OF = 500
"""Calibration episodes that give the steps' scores, at most."""
_AT_ONCE = 256


@dataclass(frozen=True)
class Seen:
    """An episode as a model sees it, T steps. latents: (T, N, D). early: per observation channel (T, P, C).

    missing: (T, channels) where a whole channel is not there. actions: (T - 1 or more, A).
    """

    latents: Tensor
    early: tuple[Tensor, ...]
    missing: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Scores:
    """surprise: (T,). novelty: (T, channels). NaN where there is none: in the first block, or a channel is missing."""

    surprise: Tensor
    novelty: Tensor


class Calibration(nn.Module):
    """Turns what a model sees of an episode into p-values and alarms; on the CPU, wherever the model is.

    law, novelty: what residuals and first features are like in training. The rest is sorted scores of calibration
    episodes: `surprise_steps` (n,) and `novelty_steps` (channels, n) of single steps, with their tails (see
    `conformal.tail_of`); `surprise_episodes` and
    `novelty_episodes` (e,), of others, the highest log evidence of each episode.
    length: steps of the shortest calibration episode.
    """

    def __init__(
        self,
        law: ResidualLaw,
        novelty: Sequence[Novelty],
        *,
        steps: tuple[int, int] = (0, 0),
        episodes: int = 0,
        length: int = 1,
    ) -> None:
        super().__init__()
        self.length = length
        self.law, self.novelty = law, nn.ModuleList(novelty)
        self.register_buffer("surprise_steps", torch.zeros(steps[0]))
        self.register_buffer("novelty_steps", torch.zeros(len(novelty), steps[1]))
        self.register_buffer("surprise_tail", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("novelty_tail", torch.zeros(len(novelty), 3, dtype=torch.float64))
        for name in ("surprise", "novelty"):
            self.register_buffer(f"{name}_episodes", torch.zeros(episodes, dtype=torch.float64))

    @property
    def channels(self) -> list[Novelty]:
        """The novelty of each observation channel."""
        return [cast(Novelty, each) for each in self.novelty]

    @property
    def episodes(self) -> int:
        """How many calibration episodes alarms are set by."""
        return len(self.get_buffer("surprise_episodes"))

    @property
    def lowest(self) -> float:
        """The lowest share of false alarms that can be asked for with so many episodes."""
        return 1 / (self.episodes + 1) / NEW[1]

    def scores(self, model: WorldModel, seen: Seen) -> Scores:
        """Of every step of an episode."""
        return Scores(
            self.surprise(model, seen.latents, seen.missing.any(1), seen.actions), self.new(seen.early, seen.missing)
        )

    def surprise(self, model: WorldModel, latents: Tensor, gone: Tensor, actions: Tensor) -> Tensor:
        """Scores (T,) of latents (T, N, D) and the actions between them (T - 1 or more, A), of what was predicted from
        steps without a missing channel (`gone`, (T,)) only; NaN at a first step and where a channel is missing.
        """
        return pooled(self.ratios(model, latents, gone, actions), model.config.block)

    @torch.no_grad()
    def ratios(
        self, model: WorldModel, latents: Tensor, gone: Tensor, actions: Tensor, *, last: bool = False
    ) -> Tensor:
        """How surprising each view is (T, V), as `ResidualLaw.ratios`, -inf where there is none; arguments as in
        `surprise`. last: of the last step alone, (1, V).
        """
        found = (last_residuals if last else residuals)(model, latents, actions, self.law.blocks)
        block, history = model.config.block, model.config.history
        # How far back each view looks.
        looks = [range(0, (k + history) * block, block) for k in range(1, self.law.views)] + [range(3)]
        for k, backs in enumerate(looks if bool(gone.any()) else ()):
            for back in backs:
                lost = functional.pad(gone, (back, 0))[: len(gone)]
                found.values[lost[-len(found.values) :], k] = math.nan
        return self.law.ratios(found.values, found.given)

    @torch.no_grad()
    def new(self, early: Sequence[Tensor], missing: Tensor) -> Tensor:
        """Scores (T, channels) of first features (T, P, C) of each channel; NaN where it is missing (T, channels)."""
        found = [novelty(features) for novelty, features in zip(self.channels, early, strict=True)]
        return torch.stack(found, dim=1).masked_fill(missing, math.nan)

    def reach(self, model: WorldModel) -> int:
        """Raw steps that a prediction looks back."""
        return model.config.block * (self.law.blocks + model.config.history - 1)

    def memory(self, model: WorldModel) -> int:
        """Raw steps that a surprise looks back: at predictions within the last block."""
        return self.reach(model) + model.config.block - 1

    def shares(self, level: float) -> tuple[float, float]:
        """Of a level of false alarms: what surprise and novelty may use within the length of calibration episodes."""
        novelty = min(NEW[1], max(NEW[0], 1 / (self.episodes + 1) / level))
        return 1 - LATE - novelty, novelty

    def surprise_p(self, scores: Tensor, *, tail: bool = False) -> Tensor:
        """p-values (...) of surprises (...), NaN for NaN; `tail`: extrapolated, for evidence."""
        return _p(self.get_buffer("surprise_steps"), scores, self.get_buffer("surprise_tail") if tail else None)

    def novelty_p(self, scores: Tensor, *, tail: bool = False) -> Tensor:
        """p-values (..., channels) of novelties (..., channels), NaN for NaN."""
        parts = zip(self.get_buffer("novelty_steps"), scores.unbind(-1), self.get_buffer("novelty_tail"), strict=True)
        return torch.stack([_p(r, s, t if tail else None) for r, s, t in parts], dim=-1)

    def thresholds(self, level: float, step: int) -> tuple[float, float]:
        """Log evidence of surprise and of novelty at which to alarm after a step (counted from 0), so that at most a
        share `level` of ordinary episodes alarms, divided by `shares` and `LATE`.

        For the steps that calibration episodes have the threshold is conformal and holds for exchangeable episodes
        however their steps depend on each other. For all later steps it is Ville's and rests on p-values of separate
        predictions being independent.
        Raises SpecError for a level outside (0, 1), DataError where calibration episodes are too few.
        """
        check_level(level, "alarms")
        require_enough(self.episodes, NEW[1] * level, f"alarms at {level:g}, {NEW[1]:.3g} of it for novelty")
        late = -math.inf if step < self.length else -math.log(level * LATE / 2)
        surprise, novelty = (
            max(late, float(quantile(self.get_buffer(f"{name}_episodes"), 1 - share * level)))
            for name, share in zip(("surprise", "novelty"), self.shares(level), strict=True)
        )
        return surprise, novelty

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        return {
            "law": self.law.to_json(),
            "novelty": [n.to_json() for n in self.channels],
            "steps": [self.get_buffer(f"{n}_steps").shape[-1] for n in ("surprise", "novelty")],
            "episodes": self.episodes,
            "length": self.length,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Calibration:
        """Of that configuration, its weights not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return Calibration(
                ResidualLaw.from_json(data["law"]),
                [Novelty.from_json(n) for n in data["novelty"]],
                steps=(int(data["steps"][0]), int(data["steps"][1])),
                episodes=int(data["episodes"]),
                length=int(data["length"]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SpecError(f"not a calibration: {error!r}") from error


@dataclass(frozen=True)
class Evidence:
    """Log evidence against 'as in calibration' so far, of any batch shape; -inf before the first step.

    lasting: of many small surprises on end. sudden: of single great ones. novelty: of what is unlike training.
    """

    lasting: Tensor
    sudden: Tensor
    novelty: Tensor

    @staticmethod
    def start(*shape: int) -> Evidence:
        """None yet."""
        none = torch.full(shape, -math.inf, dtype=torch.float64)
        return Evidence(none, none, none)

    @property
    def surprise(self) -> Tensor:
        """The weighted mean of both kinds of surprise: an e-process like each of them."""
        return torch.logaddexp(self.lasting + math.log(LASTING), self.sudden + math.log(1 - LASTING))

    def after(self, surprise_p: Tensor, novelty_p: Tensor, weight: float, overlap: int) -> Evidence:
        """With the (tail) p-values of a step, (...) and (..., channels); NaN adds nothing."""
        known = ~surprise_p.isnan()
        p = surprise_p.nan_to_num(nan=1.0)
        lasting = torch.where(known, persistent(self.lasting, p, weight, overlap), self.lasting)
        sudden = torch.where(known, greatest(self.sudden, p, weight), self.sudden)
        channels = novelty_p.shape[-1]
        # The lowest of several p-values, corrected for having chosen it (Bonferroni).
        lowest = (novelty_p.nan_to_num(nan=1.0).amin(-1) * channels).clamp_max(1.0)
        return Evidence(lasting, sudden, passing(self.novelty, lowest, weight))


def pooled(ratios: Tensor, block: int) -> Tensor:
    """Surprise (T,) of successive steps: the mean over views of the highest of their ratios (T, V) within the last
    `block` steps. One change shows in each view, but not at the same step. NaN where a step has no view (all -inf).
    """
    highest = functional.pad(ratios.T, (block - 1, 0), value=-math.inf).unfold(1, block, 1).amax(-1)
    known = highest.isfinite()
    return (highest.masked_fill(~known, 0.0).sum(0) / known.sum(0)).masked_fill(ratios.isinf().all(1), math.nan)


def evidence_paths(surprise_p: Tensor, novelty_p: Tensor, length: int, overlap: int) -> tuple[Tensor, Tensor]:
    """Log evidence of surprise and of novelty, each (E, T), after each step of E episodes.

    surprise_p: (E, T); novelty_p: (E, T, channels), tail p-values. length: of the calibration episodes.
    """
    now = Evidence.start(len(surprise_p))
    path = []
    for t in range(surprise_p.shape[1]):
        now = now.after(surprise_p[:, t], novelty_p[:, t], change_weight(t, length), overlap)
        path.append(now)
    return torch.stack([e.surprise for e in path], 1), torch.stack([e.novelty for e in path], 1)


@torch.no_grad()
def see(model: WorldModel, episode: Episode, *, last: bool = False) -> Seen:
    """What a model sees of an episode of its spec. last: of its last step alone, beside all actions."""
    names = [c.name for c in model.spec.observations]
    steps = len(episode.observations[names[0]])
    latents: list[Tensor] = []
    early: list[list[Tensor]] = []
    for first in range(steps - 1 if last else 0, steps, _AT_ONCE):
        inputs = shown(model, episode, slice(first, first + _AT_ONCE))
        encoded, features = model.encode_with_early(inputs)
        latents.append(encoded[:, None].cpu())
        early.append([places_of(f)[0].float().cpu() for f in features])
    missing = torch.zeros(steps, len(names), dtype=torch.bool)
    for i, name in enumerate(names):
        if name in episode.valid:
            missing[:, i] = ~torch.from_numpy(episode.valid[name].reshape(steps, -1).any(1))
    return Seen(
        torch.cat(latents),
        tuple(torch.cat(parts) for parts in zip(*early, strict=True)),
        missing[-1:] if last else missing,
        torch.from_numpy(np.array(episode.actions, np.float32)),
    )


def shown(model: WorldModel, episode: Episode, steps: slice) -> list[tuple[Tensor, Tensor]]:
    """What the encoder of each channel takes of some steps of an episode; see `WorldModel.normalised`."""
    first, end, _ = steps.indices(len(episode))
    names = [c.name for c in model.spec.observations]
    lead = {n: min(first, model.config.look - 1) if n in model.looking else 0 for n in names}

    def batch(name: str, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(values[first - lead[name] : end]))[None].to(model.device)

    values = {n: batch(n, episode.observations[n]) for n in names}
    masks = {n: batch(n, episode.valid[n]) for n in names if n in episode.valid}
    values = {n: v if v.dtype == torch.uint8 else v.float() for n, v in values.items()}
    seen, there = model.looking_back(values, masks)
    return list(model.normalised(*({n: x[:, lead[n] :] for n, x in each.items()} for each in (seen, there))))


def fit(
    model: WorldModel, episodes: Iterable[Seen], unseen: Iterable[Seen] = (), *, seed: int, steps: int | None = None
) -> Calibration:
    """What first features and residuals are like; not calibrated yet.

    episodes: that the model was trained on. unseen: others, where there are hundreds of them: residuals are smaller in
    training episodes, so that a law learned on those finds too much surprising elsewhere and, once calibrated, too
    little of what is. They may not be calibrated on, too. steps: see `fit_residual_law`.
    Raises DataError where the episodes are too short to predict anything in.
    """
    features = [_Rows() for _ in model.spec.observations]

    def passing() -> Iterator[Seen]:
        for seen in episodes:
            for i, early in enumerate(seen.early):
                there = early[~seen.missing[:, i]]
                features[i].add(there[torch.linspace(0, len(there) - 1, min(FRAMES, len(there))).round().long()])
            yield seen

    found = _residuals(model, passing())
    if found is None:
        raise DataError("trust: episodes to learn from expected, there are none")
    novelty = []
    for channel, kept in zip(model.spec.observations, features, strict=True):
        if not len(kept.rows):
            raise DataError(f"trust: channel {channel.name} is missing in every step of the training episodes")
        novelty.append(fit_novelty(channel.name, kept.rows))
    elsewhere = _residuals(model, unseen)
    law = fit_residual_law(elsewhere or found, action=model.action_size, seed=seed, steps=steps)
    return Calibration(law, novelty)


def refit(fitted: Calibration, model: WorldModel, unseen: Iterable[Seen], *, seed: int) -> Calibration:
    """The same, not calibrated, with residuals as they are in these episodes, which the model was not trained on."""
    found = _residuals(model, unseen)
    if found is None:
        raise DataError("trust: episodes to learn residuals from expected, there are none")
    return Calibration(fit_residual_law(found, action=model.action_size, seed=seed), fitted.channels)


class _Rows:
    """Rows that stay while larger tensors come and go, in one tensor that grows: kept each in its own they would leave
    holes between them that the next large one does not fit into.
    """

    def __init__(self) -> None:
        self._held, self._count = torch.zeros(0), 0

    @property
    def rows(self) -> Tensor:
        """All that were added."""
        return self._held[: self._count]

    def add(self, rows: Tensor) -> None:
        """(n, *shape), the same shape at each call."""
        if not len(rows):
            return
        end = self._count + len(rows)
        if end > len(self._held):
            grown = rows.new_empty(2 * end, *rows.shape[1:])
            if self._count:
                grown[: self._count] = self.rows
            self._held = grown
        self._held[self._count : end] = rows
        self._count = end


def _residuals(model: WorldModel, episodes: Iterable[Seen]) -> Residuals | None:
    """Of all steps of all episodes; None where there are no episodes."""
    values, given = _Rows(), _Rows()
    for seen in episodes:
        found = residuals(model, seen.latents, seen.actions, BLOCKS)
        values.add(found.values)
        given.add(found.given)
    return Residuals(values.rows, given.rows) if len(values.rows) else None


def calibrate(
    fitted: Calibration, model: WorldModel, episodes: Iterable[Seen], *, seed: int, level: float | None = None
) -> Calibration:
    """The same, calibrated on episodes that the model was not trained on.

    A part of them, drawn by `seed`, gives the steps' scores; the others, whole, the alarms' thresholds: both
    guarantees need scores that the other did not see. level: of alarms that must be possible afterwards.
    Raises DataError, saying how many are needed, where there are too few.
    """
    scores = [fitted.scores(model, seen) for seen in episodes]
    total = len(scores)
    require_episodes(total, level)
    order = np.random.default_rng([seed, 0xCA1]).permutation(total)
    steps, whole = order[: _for_steps(total)], order[_for_steps(total) :]
    surprise = torch.cat([scores[i].surprise for i in steps])
    surprise = surprise[~surprise.isnan()].sort().values
    novelty = torch.cat([scores[i].novelty for i in steps])
    novelty = novelty[~novelty.isnan().any(1)]
    if not len(surprise) or not len(novelty):
        raise DataError("calibration: no step in which every channel is there and a block was predicted")
    made = Calibration(
        fitted.law,
        fitted.channels,
        steps=(len(surprise), len(novelty)),
        episodes=len(whole),
        length=min(len(s.surprise) for s in scores),
    )
    made.get_buffer("surprise_steps").copy_(surprise)
    made.get_buffer("novelty_steps").copy_(novelty.T.sort(dim=1).values)
    made.get_buffer("surprise_tail").copy_(tail_of(made.get_buffer("surprise_steps")))
    made.get_buffer("novelty_tail").copy_(torch.stack([tail_of(r) for r in made.get_buffer("novelty_steps")]))
    most = [_highest(made, scores[i], made.memory(model)) for i in whole]
    made.get_buffer("surprise_episodes").copy_(torch.stack([m[0] for m in most]).sort().values)
    made.get_buffer("novelty_episodes").copy_(torch.stack([m[1] for m in most]).sort().values)
    return made.eval().requires_grad_(False)


def require_episodes(total: int, level: float | None = None) -> None:
    """Raise DataError, saying how many are needed, where so many episodes cannot calibrate alarms at that level."""
    if total < 3:
        raise DataError(f"calibration: at least 3 episodes expected, there are {total}")
    if not enough(total, level):
        assert level is not None
        least = next(n for n in range(total, 10**9) if enough(n, level))
        raise DataError(
            f"calibration: alarms at a level of {level:g} need at least {least} calibration episodes, there are {total}"
        )


def enough(total: int, level: float | None) -> bool:
    """Whether so many calibration episodes allow alarms at a level, if any is asked for."""
    return level is None or total - _for_steps(total) >= needed(NEW[1] * level)


def _for_steps(total: int) -> int:
    """How many of the calibration episodes give the steps' scores: steps are many where episodes are few."""
    return max(1, min(total // 3, _STEPS_OF))


def _highest(made: Calibration, scores: Scores, overlap: int) -> tuple[Tensor, Tensor]:
    """Log evidence at its highest within the length of the shortest calibration episode."""
    surprise, novelty = evidence_paths(
        made.surprise_p(scores.surprise[: made.length], tail=True)[None],
        made.novelty_p(scores.novelty[: made.length], tail=True)[None],
        made.length,
        overlap,
    )
    return surprise.amax(), novelty.amax()


def _p(reference: Tensor, scores: Tensor, tail: Tensor | None) -> Tensor:
    known = scores.nan_to_num(nan=0.0)
    found = p_values(reference, known) if tail is None else tail_p_values(reference, known, tail)
    return found.masked_fill(scores.isnan(), math.nan)
