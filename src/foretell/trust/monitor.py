"""The monitor: watches a stream of observations and actions, and says after each step whether to trust the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import DataError, SpecError
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.trust.attribution import attribute_surprise
from foretell.trust.calibration import LASTING, Calibration, Evidence, Seen, pooled, see
from foretell.trust.evidence import change_weight

Kind = Literal["surprise", "novelty", "missing"]
RARE = 0.01
"""p-value up to which a step adds to evidence that never fades by itself; above it, trust returns."""
_KEPT = 3.0
"""Log evidence of lasting surprise beyond the threshold that is kept: so much must fade before trust returns."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a monitor says after a step.

    step: counted from 0. surprise: p-value of how badly this observation was predicted; None where nothing predicted
    it. novelty: p-value by channel of how unlike training it is; None where the channel is missing.
    trusted: whether the model's predictions hold as far as can be told. kind: why not. alarm: whether this is the
    first step of the episode that is not to be trusted for surprise or novelty. reasons: for people, one a line.
    """

    step: int
    surprise: float | None
    novelty: Mapping[str, float | None]
    trusted: bool
    alarm: bool
    kind: Kind | None
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-serialisable."""
        return asdict(self)


@dataclass(frozen=True)
class Watched:
    """What a monitor knows of a stream between two steps. Nothing in it is changed in place.

    step: observations seen. latents, missing, actions, shown: the latest, as far back as the longest prediction
    reaches. ratios: of the last block, (1, V) each. blamed: the channel and field that the surprise depends on most,
    "" while there is none.
    """

    step: int = 0
    evidence: Evidence = field(default_factory=Evidence.start)
    alarmed: Kind | None = None
    latents: tuple[Tensor, ...] = ()
    missing: tuple[bool, ...] = ()
    actions: tuple[Tensor, ...] = ()
    shown: tuple[Episode, ...] = ()
    ratios: tuple[Tensor, ...] = ()
    blamed: str = ""


class Monitor:
    """Watches one stream in constant time and memory per step.

    level: share of ordinary episodes that may alarm. A stream is an episode: `reset` begins another.
    reach: raw steps that a prediction looks back.
    Raises SpecError for a level outside (0, 1), DataError where the calibration cannot give it.
    """

    def __init__(self, model: WorldModel, calibration: Calibration, *, level: float = 0.01) -> None:
        # Small, and one observation at a time: the CPU is faster, wherever the model is.
        self.model, self.calibration, self.level = model, calibration.cpu(), level
        self._early = calibration.thresholds(level, 0)
        self._late = calibration.thresholds(level, calibration.length)
        self.reach, self._memory = calibration.reach(model), calibration.memory(model)
        self.state = Watched()

    def reset(self) -> None:
        """Begin a new episode."""
        self.state = Watched()

    def step(
        self,
        observation: Mapping[str, NDArray[Any]],
        action: NDArray[Any] | None = None,
        valid: Mapping[str, NDArray[Any]] | None = None,
        *,
        number: int | None = None,
    ) -> Verdict:
        """The verdict on what is seen now.

        observation: by channel, (*shape) in raw units. action: (A,) raw, the one that led here from the observation
        before; None at the first step. valid: by channel, a bool or (F,) of them; values that are not finite count as
        missing. number: of the observation, where the stream counts them from 0, so that none is skipped or told twice.
        Raises SpecError, naming the channel, for what does not fit the spec, DataError for an action at the
        first step, none later, or another number than the next. What is refused changes nothing.
        """
        if number is not None and number != self.state.step:
            told = "was seen before" if number < self.state.step else f"skips {number - self.state.step}"
            raise DataError(f"monitor: observation {self.state.step} expected, {number} {told}; `reset` begins anew")
        verdict, self.state = self.judge(self.state, observation, action, valid)
        return verdict

    def judge(
        self,
        state: Watched,
        observation: Mapping[str, NDArray[Any]],
        action: NDArray[Any] | None = None,
        valid: Mapping[str, NDArray[Any]] | None = None,
    ) -> tuple[Verdict, Watched]:
        """As `step`, for a stream whose state is kept by the caller; begin with `Watched()`."""
        size = self.model.spec.action.size
        if (action is None) != (state.step == 0) and size:
            what = "no action before the first observation" if state.step == 0 else "the action since the last one"
            raise DataError(f"monitor: step {state.step}: {what} expected; `reset` begins another episode")
        taken = () if action is None else (_action(action, size),)
        shown = _single(self.model, observation, valid)
        with torch.inference_mode():  # A tenth faster than without gradients alone.
            looks = (*state.shown, shown)[-self.model.config.look :]
            seen = see(self.model, _joined(looks), last=True)
        now = replace(
            state,
            # Copied: an attribution takes gradients beside them.
            latents=(*state.latents, seen.latents[0].clone())[-self.reach - 1 :],
            missing=(*state.missing, bool(seen.missing.any()))[-self.reach - 1 :],
            actions=(*state.actions, *taken)[-self.reach :],
            shown=(*state.shown, shown)[-max(self.reach + 1, self.model.config.look) :],
        )
        with torch.inference_mode():
            ratios = self.calibration.ratios(self.model, *_lately(now), last=True)
            now = replace(now, ratios=(*state.ratios, ratios)[-self.model.config.block :])
            surprise = pooled(torch.cat(now.ratios), self.model.config.block)[-1]
            novelty = self.calibration.new(seen.early, seen.missing)[0]
        return self._verdict(now, surprise, novelty)

    def _blame(self, state: Watched) -> str:
        """The channel and field that the surprise at this step depends on most."""
        fields = {c.name: c.fields for c in self.model.spec.observations}
        latents, gone, actions = _lately(state)
        seen = Seen(latents, (), gone[:, None], actions)
        episode = _joined(state.shown)
        found = attribute_surprise(self.model, self.calibration, episode, len(episode) - 1, seen)
        return found.top(fields)

    def _verdict(self, state: Watched, surprise: Tensor, novelty: Tensor) -> tuple[Verdict, Watched]:
        made, names = self.calibration, [c.name for c in self.model.spec.observations]
        high = self._early if state.step < made.length else self._late
        now = state.evidence.after(
            made.surprise_p(surprise, tail=True),
            made.novelty_p(novelty, tail=True),
            change_weight(state.step, made.length),
            self._memory,
        )
        enduring = high[0] - math.log(LASTING)
        p, each = float(made.surprise_p(surprise)), [float(x) for x in made.novelty_p(novelty)]
        missing = [n for n, x in zip(names, each, strict=True) if math.isnan(x)]
        rare = [n for n, x in zip(names, each, strict=True) if x * len(each) <= RARE]
        surprised = float(now.surprise) >= high[0] and (float(now.lasting) >= enduring or p <= RARE)
        new = float(now.novelty) >= high[1] and bool(rare)
        # What comes unannounced and is new, too, is first of all something that should not have happened.
        alarmed = state.alarmed or ("surprise" if surprised else "novelty" if new else None)
        kind: Kind | None = "missing" if missing else None
        if surprised or new:
            kind = alarmed if surprised and new else "surprise" if surprised else "novelty"
        reasons = [f"{n}: channel missing" for n in missing]
        if new:
            reasons += [f"{n}: unlike training (p = {each[names.index(n)]:.1g})" for n in rare]
        # Found where a surprise begins: it takes longer than the rest of a step.
        blamed = (state.blamed or ("" if math.isnan(p) else self._blame(state))) if surprised else ""
        if surprised:
            said = "what followed was not what was predicted"
            reasons.append(f"{blamed}: {said} (p = {p:.1g} now)" if blamed and not math.isnan(p) else said)
        verdict = Verdict(
            step=state.step,
            surprise=None if math.isnan(p) else p,
            novelty={n: None if math.isnan(x) else x for n, x in zip(names, each, strict=True)},
            trusted=kind is None,
            alarm=state.alarmed is None and alarmed is not None,
            kind=kind,
            reasons=tuple(reasons),
        )
        # What is kept is forgotten in time; less evidence is still evidence.
        kept = replace(now, lasting=now.lasting.clamp_max(enduring + _KEPT))
        return verdict, replace(state, step=state.step + 1, evidence=kept, alarmed=alarmed, blamed=blamed)


def _joined(shown: Sequence[Episode]) -> Episode:
    """Successive steps as one episode, without the actions between them."""
    if len(shown) == 1:
        return shown[0]
    masked = {n for one in shown for n in one.valid}
    valid = {}
    for name in masked:
        some = next(one.valid[name] for one in shown if name in one.valid)
        valid[name] = np.concatenate([one.valid.get(name, np.ones_like(some)) for one in shown])
    return Episode(
        observations={n: np.concatenate([one.observations[n] for one in shown]) for n in shown[0].observations},
        actions=shown[0].actions,
        valid=valid,
    )


def _lately(state: Watched) -> tuple[Tensor, Tensor, Tensor]:
    """The latest latents (T, N, D), where a channel was missing (T,), and the actions between (T - 1, A)."""
    actions = torch.stack(state.actions) if state.actions else torch.zeros(len(state.latents) - 1, 0)
    return torch.stack(state.latents), torch.tensor(state.missing), actions


def _action(action: NDArray[Any], size: int) -> Tensor:
    taken = torch.from_numpy(np.array(action, np.float32))
    if taken.shape != (size,) or not bool(taken.isfinite().all()):
        raise SpecError(f"monitor: a finite action of shape ({size},) expected, got {np.asarray(action)!r}")
    return taken


def _single(
    model: WorldModel, observation: Mapping[str, NDArray[Any]], valid: Mapping[str, NDArray[Any]] | None
) -> Episode:
    """One observation as an episode of one step, checked, with masks for what is not finite."""
    values, masks = {}, {}
    for channel in model.spec.observations:
        if channel.name not in observation:
            raise SpecError(f"monitor: channel {channel.name} is missing; mark it as such with `valid` if it is lost")
        value = np.asarray(observation[channel.name])
        if value.shape != channel.shape:
            raise SpecError(f"monitor: channel {channel.name} of shape {channel.shape} expected, got {value.shape}")
        if channel.kind == "image":
            if value.dtype != np.uint8:
                raise SpecError(f"monitor: channel {channel.name} must be uint8 (8 bits a colour), got {value.dtype}")
            finite = np.ones((), np.bool_)
        else:
            value = value.astype(np.float32)
            finite = np.isfinite(value).reshape(channel.shape[0], -1).all(1)
        given = (valid or {}).get(channel.name)
        seen = finite if given is None else finite & np.broadcast_to(np.asarray(given, np.bool_), finite.shape)
        if not seen.all():
            masks[channel.name] = seen[None]
            if channel.kind != "image":
                value = np.where(seen.reshape(-1, *(1,) * (value.ndim - 1)), value, np.float32(0))
        values[channel.name] = value[None]
    return Episode(observations=values, actions=np.zeros((0, model.spec.action.size), np.float32), valid=masks)
