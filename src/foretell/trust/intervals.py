"""Intervals around what a readout says of times to come: split conformal, by horizon and, on request, by group."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foretell.errors import DataError, SpecError
from foretell.model.readout import Reads
from foretell.model.world_model import WorldModel
from foretell.trust.conformal import AdaptiveLevel, check_level, needed, quantile
from foretell.trust.residuals import imagined_from


@torch.no_grad()
def ahead(model: WorldModel, readout: Reads, latents: Tensor, actions: Tensor, horizons: Sequence[int]) -> Tensor:
    """What the readout says, at each step of an episode, of the step `h` raw steps later, for each h in `horizons`.

    latents: (T, N, D) of every step. actions: (T - 1 or more, A) raw, those that are to come taken as planned. A
    horizon that is not a whole number of blocks is imagined from the last step that is: up to block - 1 before now.
    Returns (T, H, F) in the readout's units, NaN where the episode does not reach. Raises SpecError for horizons
    below 1.
    """
    if not horizons or min(horizons) < 1:
        raise SpecError(f"intervals: horizons of at least 1 step expected, got {list(horizons)}")
    block, steps = model.config.block, len(latents)
    found = latents.new_full((steps, len(horizons), len(readout.fields)), math.nan)
    starts, _, imagined = imagined_from(model, latents, actions, math.ceil(max(horizons) / block))
    said = readout(imagined.to(model.device)).to(found)
    for k, horizon in enumerate(horizons):
        count = math.ceil(horizon / block)
        now = starts + count * block - horizon
        inside = (now < steps - horizon) & (now >= 0)
        found[now[inside], k] = said[inside, count - 1]
    return found


def errors_ahead(
    model: WorldModel,
    readout: Reads,
    latents: Tensor,
    actions: Tensor,
    truth: Tensor,
    horizons: Sequence[int],
) -> Tensor:
    """What `ahead` says minus what is true then: (T, H, F), NaN where either is unknown. truth: (T, F)."""
    found = ahead(model, readout, latents, actions, horizons)
    for k, horizon in enumerate(horizons):
        found[: max(0, len(truth) - horizon), k] -= truth[horizon:].to(found)
    return found


class Intervals(nn.Module):
    """Half-widths from calibration errors, by horizon.

    channel, fields, units: what is read out. horizons: raw steps. errors: (H, n, F) ascending along n.
    """

    def __init__(
        self, *, channel: str, fields: Sequence[str], units: Sequence[str], horizons: Sequence[int], count: int
    ) -> None:
        super().__init__()
        self.channel, self.fields, self.units = channel, tuple(fields), tuple(units)
        self.horizons = tuple(int(h) for h in horizons)
        if count < 1 or not self.horizons or min(self.horizons) < 1:
            raise SpecError(f"intervals: horizons and errors expected, got {list(horizons)} and {count} errors")
        self.register_buffer("errors", torch.zeros(len(self.horizons), count, len(self.fields)))

    def half_width(self, level: float) -> Tensor:
        """(H, F) so that forecast +- half-width holds the truth of each field with a chance of at least `level`, for
        episodes exchangeable with the calibration ones; infinite where these are too few.
        """
        return quantile(self.get_buffer("errors").transpose(0, 1), level)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        return {
            "channel": self.channel,
            "fields": list(self.fields),
            "units": list(self.units),
            "horizons": list(self.horizons),
            "count": self.get_buffer("errors").shape[1],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Intervals:
        """Of that configuration, its errors not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return Intervals(
                channel=str(data["channel"]),
                fields=[str(f) for f in data["fields"]],
                units=[str(u) for u in data["units"]],
                horizons=[int(h) for h in data["horizons"]],
                count=int(data["count"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"not intervals: {error!r}") from error


class LiveIntervals:
    """Intervals around forecasts as they are made, whose widths follow what turns out: adaptive conformal inference for
    each horizon and field apart (`conformal.AdaptiveLevel`). Under drift, where calibration no longer holds, the share
    of misses still comes to the one asked for. Constant time and memory per step.

    level: share of truths that intervals should hold. rate: how fast levels follow.
    """

    def __init__(self, intervals: Intervals, *, level: float = 0.9, rate: float = 0.02) -> None:
        check_level(level, "intervals")
        self.intervals = intervals
        shape = len(intervals.horizons), len(intervals.fields)
        self._levels = [[AdaptiveLevel.start(1 - level, rate) for _ in range(shape[1])] for _ in range(shape[0])]
        self._said: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(intervals.horizons))

    def step(self, forecast: Tensor, truth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Low and high ends, (H, F) each, of a forecast (H, F) made now; NaN where it is.

        truth: (F,) what is true now, NaN where unknown; None where nothing is. Call it once at every step.
        Raises SpecError for other shapes.
        """
        horizons, fields = self.intervals.horizons, self.intervals.fields
        if forecast.shape != (len(horizons), len(fields)) or (truth is not None and truth.shape != (len(fields),)):
            raise SpecError(
                f"intervals: a forecast of shape {(len(horizons), len(fields))} and a truth of {(len(fields),)}"
                f" expected, got {tuple(forecast.shape)} and {None if truth is None else tuple(truth.shape)}"
            )
        for k, horizon in enumerate(horizons):
            if truth is None or horizon > len(self._said):
                continue
            low, high = self._said[-horizon]
            for i, value in enumerate(truth.tolist()):
                if not math.isnan(value) and not bool(low[k, i].isnan()):
                    missed = not float(low[k, i]) <= value <= float(high[k, i])
                    self._levels[k][i] = self._levels[k][i].after(missed)
        errors = self.intervals.get_buffer("errors")
        width = torch.tensor(
            [[lv.half_width(errors[k, :, i]) for i, lv in enumerate(row)] for k, row in enumerate(self._levels)]
        ).to(forecast)
        self._said.append((forecast - width, forecast + width))
        return self._said[-1]


def fit_intervals(
    readout: Reads,
    horizons: Sequence[int],
    errors: Sequence[Tensor],
    *,
    level: float | None = None,
    steps: int | None = None,
) -> Intervals:
    """Intervals from the errors (T, H, F) of calibration episodes, forecast minus truth, NaN where there is none.

    Each episode counts alike: of each, as many steps are kept as the shortest has, and at most `steps`, evenly chosen.
    level: that must be possible.
    Raises DataError where errors are too few for it, or a horizon has none.
    """
    absolute = [e.abs() for e in errors]
    known = [[x[~x[:, k].isnan().any(-1), k] for x in absolute] for k in range(len(horizons))]
    fewest = min((len(x) for rows in known for x in rows), default=0)
    if not fewest:
        raise DataError(
            f"intervals: calibration episodes of more than {max(horizons)} steps expected, for the longest horizon"
        )
    fewest = fewest if steps is None else min(fewest, steps)
    if level is not None:
        check_level(level, "intervals")
        if len(errors) < needed(1 - level):
            raise DataError(
                f"intervals: a level of {level:g} needs at least {needed(1 - level)} calibration episodes,"
                f" there are {len(errors)}"
            )
    made = Intervals(
        channel=readout.channel,
        fields=readout.fields,
        units=readout.units,
        horizons=horizons,
        count=fewest * len(errors),
    )
    for k, rows in enumerate(known):
        some = torch.cat([x[torch.linspace(0, len(x) - 1, fewest).round().long()] for x in rows])
        made.get_buffer("errors")[k] = some.sort(dim=0).values
    return made


def grouped(
    readout: Reads,
    horizons: Sequence[int],
    errors: Sequence[Tensor],
    groups: Sequence[Hashable],
    *,
    level: float | None = None,
) -> dict[Hashable, Intervals]:
    """Intervals of each group (a patient, a product) from its own episodes alone, so that the coverage holds in each
    (Mondrian conformal prediction, Vovk et al. 2003). groups: one per episode. Errors as in `fit_intervals`, with the
    group's name.
    """
    found: dict[Hashable, Intervals] = {}
    for group in dict.fromkeys(groups):
        own = [e for e, g in zip(errors, groups, strict=True) if g == group]
        try:
            found[group] = fit_intervals(readout, horizons, own, level=level)
        except DataError as error:
            raise DataError(f"group {group}: {error}") from error
    return found
