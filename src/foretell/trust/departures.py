"""Departures: plain ways in which measurements, forecasts of them and actions stop being as they were in calibration.

Surprise and novelty look at latents one prediction at a time. What is wrong with a patient, a machine or a sensor often
shows otherwise: in forecasts that err a little, always to the same side, for hours; in a value that stands still or
jumps; in doses far beyond those before. Each of these is one number at each step, judged by the highest of whole
calibration episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from foretell.errors import DataError, SpecError
from foretell.trust.conformal import tail_of, tail_p_values

Kind = Literal["error", "drift", "level", "stuck", "jump", "dose"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SENSOR: tuple[Kind, ...] = ("stuck", "jump")
"""Kinds that are about what is measured; the others are about what was expected of it, and about what was done."""
NEAR = 2
"""Horizons, the shortest, that a single great error is looked for in."""
_SAID: dict[Kind, str] = {
    "error": "a forecast was further off than they are ({:.2g} times what is usual)",
    "drift": "forecasts have erred to one side for long ({:.2g} times what is usual)",
    "level": "{:.2g} times as far out as all but one in a hundred values",
    "stuck": "the same value for {:.0f} steps",
    "jump": "changed by {:.3g} in a step",
    "dose": "{:.2g} times as much was given as usual",
}
_TAIL, _FEWEST, _THINNEST = 0.15, 8, 5.0
"""Share of episodes that a tail is extrapolated from, how many at least, and the exponent that it is believed at most:
few episodes cannot tell that there is nothing beyond them."""
_LEAST = 1e-300
_USUAL = 3
"""Times that something has been done before it is known how much of it is usual."""


@dataclass(frozen=True)
class Departing:
    """What is known of B streams between two steps. Nothing in it is changed in place.

    before: (B, F) the values of the step before, NaN where there was none; last: the latest that were there.
    standing: (B, F) steps for which each has stood still. means: (B, H, F) lasting means of errors, in units of what is
    usual. done: (B, 2, A) how often each action was not 0, and the sum of its sizes then.
    """

    before: Tensor
    last: Tensor
    standing: Tensor
    means: Tensor
    done: Tensor


@dataclass(frozen=True)
class Departed:
    """Of a step of B streams. signals: (B, 6), by `KINDS`. p: (B, 6), how many of calibration episodes ever reach as
    far. score: (B,) minus the sum of their logs (Fisher 1932).
    """

    signals: Tensor
    p: Tensor

    @property
    def score(self) -> Tensor:
        """See above."""
        return -self.p.log().sum(-1)

    def alarms(self, level: float) -> Tensor:
        """(B, 6) which signals are as high as in no more than a share `level` of ordinary episodes all of them together
        ever are (Bonferroni).
        """
        return self.p <= level / len(KINDS)

    def reasons(self, stream: int, channel: str, *, level: float = 0.05) -> list[str]:
        """For people, of one stream, a line for each kind that alarms."""
        high = zip(KINDS, self.alarms(level)[stream].tolist(), strict=True)
        return [self.reason(stream, kind, channel) for kind, alarm in high if alarm]

    def reason(self, stream: int, kind: Kind, channel: str) -> str:
        """For people, of one stream and kind."""
        k = KINDS.index(kind)
        what = _SAID[kind].format(float(self.signals[stream, k]))
        return f"{channel}: {what} (p = {float(self.p[stream, k]):.1g})"


class Departures(nn.Module):
    """Signals of a measured channel whose forecasts are read out of a model, and of what is done, each with
    p-values.

    error: the highest error of a forecast `NEAR` horizons ahead or less, drift: the highest lasting mean of errors to
    one side, at any horizon, both in units of what is usual at that horizon. level: how far a value lies from the
    median of calibration, in units of how far all but one in a hundred do, half of these on each side. stuck: for how
    many steps a value has been exactly the same. jump: how far it moved in a step. dose: how many times as large as
    this stream's usual an action is, the usual of those that are not 0.

    channel: its name. horizons: of forecasts, raw steps. memory: steps over which lasting means forget all but 1/e.
    every: steps from one comparison with forecasts to the next. actions: A, those that are watched. centre, spread:
    (H, F) of errors. values: (5, F) the lowest, 0.5%, middle, 99.5% and highest value of calibration episodes. highest:
    (6, n) ascending, of whole calibration episodes, with their tails.
    """

    def __init__(
        self,
        *,
        channel: str,
        horizons: Sequence[int],
        fields: int = 1,
        actions: int = 0,
        memory: float,
        every: int,
        episodes: int = 0,
    ) -> None:
        super().__init__()
        self.channel, self.horizons, self.fields = channel, tuple(int(h) for h in horizons), fields
        self.memory, self.every, self.actions = memory, every, actions
        if not self.horizons or min(self.horizons) < 1 or fields < 1 or every < 1 or not memory > 0:
            raise SpecError(
                f"departures: horizons, fields, every of at least 1 and a positive memory expected, got"
                f" {list(horizons)}, {fields}, {every} and {memory!r}"
            )
        self.register_buffer("centre", torch.zeros(len(self.horizons), fields))
        self.register_buffer("spread", torch.ones(len(self.horizons), fields))
        self.register_buffer("values", torch.arange(5.0)[:, None].repeat(1, fields))
        self.register_buffer("highest", torch.zeros(len(KINDS), episodes))
        self.register_buffer("tails", torch.zeros(len(KINDS), 3, dtype=torch.float64))

    def start(self, batch: int) -> Departing:
        """Of B streams before their first step."""
        none = torch.full((batch, self.fields), math.nan)
        return Departing(
            none,
            none,
            torch.zeros(batch, self.fields),
            torch.zeros(batch, len(self.horizons), self.fields),
            torch.zeros(batch, 2, self.actions),
        )

    def step(
        self, now: Tensor, errors: Tensor | None, action: Tensor | None, state: Departing
    ) -> tuple[Departed, Departing]:
        """With values (B, F) of now, NaN where there is none, and by how much forecasts of them erred, each horizon's
        (B, H, F) minus what is true, NaN where unknown; None at steps at which nothing is compared. action: (B, A) that
        led here; None at the first step.

        Raises SpecError for other shapes.
        """
        signals, state = self._signals(now, errors, action, state)
        return Departed(signals, self._p(signals)), state

    def _signals(
        self, now: Tensor, errors: Tensor | None, action: Tensor | None, state: Departing
    ) -> tuple[Tensor, Departing]:
        batch = len(state.last)
        shapes = (batch, self.fields), (batch, len(self.horizons), self.fields)
        if now.shape != shapes[0] or (errors is not None and errors.shape != shapes[1]):
            raise SpecError(
                f"departures: values {shapes[0]} and errors {shapes[1]} expected, got {tuple(now.shape)} and"
                f" {None if errors is None else tuple(errors.shape)}"
            )
        # After a gap a value may have come far: that is no jump. A missing value neither moves nor stands.
        known = ~now.isnan()
        jump = (now - state.before).abs().nan_to_num()
        # At the ends of its range a sensor that shows the same may well work.
        least, low, middle, high, most = self.get_buffer("values")
        inside = (now > least) & (now < most)
        same = torch.where((now == state.last) & inside, state.standing + 1, 0.0)
        standing = torch.where(known, same, state.standing)
        level = torch.maximum((now - middle) / (high - middle), (middle - now) / (middle - low)).nan_to_num()
        means, error = state.means, now.new_zeros(batch)
        if errors is not None:
            off = (errors - self.get_buffer("centre")) / self.get_buffer("spread")
            kept = math.exp(-self.every / self.memory)
            means = torch.where(off.isnan(), means, kept * means + (1 - kept) * off.nan_to_num())
            error = off[:, :NEAR].abs().nan_to_num().flatten(1).amax(1)
        done, dose = state.done, now.new_zeros(batch)
        if action is not None and self.actions:
            size, (often, total) = action.abs(), done.unbind(1)
            times = torch.where(often >= _USUAL, size * often / total.clamp_min(1e-12), 0.0)
            dose, done = times.amax(1), done + torch.stack([(size > 0).to(size), size], dim=1)
        signals = [error, means.abs().flatten(1).amax(1), level.amax(1), 1 + standing.amax(1), jump.amax(1), dose]
        return torch.stack(signals, dim=1), Departing(now, torch.where(known, now, state.last), standing, means, done)

    def _p(self, signals: Tensor) -> Tensor:
        """(..., 6) of signals (..., 6)."""
        each = zip(self.get_buffer("highest"), signals.unbind(-1), self.get_buffer("tails"), strict=True)
        return torch.stack([tail_p_values(h, s, t).clamp_min(_LEAST) for h, s, t in each], dim=-1)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        return {
            "channel": self.channel,
            "horizons": list(self.horizons),
            "fields": self.fields,
            "actions": self.actions,
            "memory": self.memory,
            "every": self.every,
            "episodes": self.get_buffer("highest").shape[1],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Departures:
        """Of that configuration, its values not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return Departures(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"not departures: {error!r}") from error


def fit_departures(
    channel: str,
    horizons: Sequence[int],
    values: Sequence[Tensor],
    errors: Sequence[Tensor],
    actions: Sequence[Tensor],
    *,
    memory: float,
    every: int,
) -> Departures:
    """From calibration episodes: values (T, F), NaN where there is none, errors (T, H, F) of the forecasts made at each
    step, as `intervals.errors_ahead` gives them, and the actions (T - 1 or more, A) that are watched.

    Raises DataError where there are none, or a horizon is never reached.
    """
    if not len(values):
        raise DataError("departures: calibration episodes expected, there are none")
    every_error, every_value = torch.cat(list(errors)), torch.cat(list(values))
    if bool(every_error.isnan().all(0).any()):
        raise DataError(f"departures: calibration episodes of more than {max(horizons)} steps expected")
    made = Departures(
        channel=channel,
        horizons=horizons,
        fields=every_value.shape[1],
        actions=actions[0].shape[1],
        memory=memory,
        every=every,
        episodes=len(values),
    )
    centre = every_error.nanmean(0)
    made.get_buffer("centre").copy_(centre)
    made.get_buffer("spread").copy_((every_error - centre).square().nanmean(0).sqrt().clamp_min(1e-6))
    at = torch.tensor([0.0, 0.005, 0.5, 0.995, 1.0])
    for i, column in enumerate(every_value.unbind(1)):
        found = torch.from_numpy(np.nanquantile(column.numpy(), at.numpy())).float()
        # Where values are few or all alike, no unit is nothing.
        found[1], found[3] = found[1].minimum(found[2] - 1e-6), found[3].maximum(found[2] + 1e-6)
        made.get_buffer("values")[:, i] = found
    made.get_buffer("highest").copy_(_paths(made, values, errors, actions).amax(1).T.sort(dim=1).values)
    for k, highest in enumerate(made.get_buffer("highest")):
        tail = tail_of(highest, share=_TAIL, fewest=_FEWEST)
        made.get_buffer("tails")[k] = tail.minimum(tail.new_tensor([math.inf, _THINNEST, 1.0]))
    return made.eval()


def departures_of(
    made: Departures, values: Sequence[Tensor], errors: Sequence[Tensor], actions: Sequence[Tensor]
) -> list[Departed]:
    """Of each step of whole episodes (the batch is T); arguments as in `fit_departures`."""
    paths = _paths(made, values, errors, actions)
    return [Departed(s, made._p(s)) for s in (path[: len(v)] for path, v in zip(paths, values, strict=True))]


def _paths(made: Departures, values: Sequence[Tensor], errors: Sequence[Tensor], actions: Sequence[Tensor]) -> Tensor:
    """(E, T, 6) signals after each step of E episodes, of which nothing is seen any more where they have ended."""
    steps = max(map(len, values))
    now, taken = _padded(values, steps), _padded([a[: len(v) - 1] for a, v in zip(actions, values, strict=True)], steps)
    off = _padded(errors, steps)
    # Errors are known when what was forecast has come.
    known = torch.full_like(off, math.nan)
    for k, horizon in enumerate(made.horizons):
        known[:, horizon:, k] = off[:, : max(0, steps - horizon), k]
    state, found = made.start(len(now)), []
    for t in range(steps):
        action = taken[:, t - 1].nan_to_num() if t else None
        signals, state = made._signals(now[:, t], known[:, t] if t % made.every == 0 else None, action, state)
        found.append(signals)
    return torch.stack(found, dim=1)


def _padded(rows: Sequence[Tensor], steps: int) -> Tensor:
    """(E, steps, ...) of rows (T, ...) each, NaN behind their ends."""
    found = rows[0].new_full((len(rows), steps, *rows[0].shape[1:]), math.nan)
    for i, each in enumerate(rows):
        found[i, : len(each)] = each
    return found
