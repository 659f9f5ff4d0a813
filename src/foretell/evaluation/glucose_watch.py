"""Whether a model of glucose may say what it says: what watches it, what goes wrong, and whether that is noticed.

For research, not a medical device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.evaluation.glucose_answers import HORIZONS, Life, errors_of, readings
from foretell.evaluation.trust import is_event, verdicts_of
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.trust.calibration import Calibration, evidence_paths, see
from foretell.trust.departures import KINDS, Departed, Departures, departures_of, fit_departures
from foretell.trust.monitor import Monitor, Verdict
from foretell.worlds.glucose.events import Event
from foretell.worlds.glucose.ward import DAY, MINUTES

FAULTS: dict[Event, str] = {
    "bias": "a sensor that shows 60 mg/dL too much",
    "dead": "a sensor stuck on its last reading",
    "dose": "three times the bolus for each meal",
    "sensitivity": "insulin doing twice as much",
}
"""What goes wrong from noon on; see `worlds.glucose.events`."""
_MEMORY = DAY // 2
"""Steps over which errors to one side are added up."""


@dataclass(frozen=True)
class Eye:
    """What watches: a monitor of surprise and novelty, and departures from calibration, each at a level of its own."""

    trust: Calibration
    departures: Departures
    level: float


@dataclass(frozen=True)
class Watching:
    """What was said of a life, step by step: by the monitor, and of departures."""

    life: Life
    verdicts: Sequence[Verdict]
    departed: Departed
    level: float

    @property
    def events(self) -> list[tuple[int, Verdict]]:
        """Steps at which the monitor loses trust, changes its reason or trusts again, and what it says."""
        pairs = zip(self.verdicts, (None, *self.verdicts[:-1]), strict=True)
        return [(v.step, v) for v, before in pairs if is_event(v, before)]

    @property
    def departures(self) -> list[tuple[int, str, str]]:
        """Steps at which something departs from calibration for the first time, its kind, and what is said."""
        found = []
        for k, kind in enumerate(KINDS):
            over = self.departed.alarms(self.level)[:, k]
            if bool(over.any()):
                step = int(over.int().argmax())
                found.append((step, kind, self.departed.reason(step, kind, "glucose")))
        return sorted(found)


def departures_in(episodes: Sequence[Episode], errors: Sequence[Tensor]) -> Departures:
    """What readings, errors of forecasts, basal rates and boluses are like in calibration episodes."""
    return fit_departures(
        "glucose",
        HORIZONS,
        [readings(e) for e in episodes],
        errors,
        [given(e) for e in episodes],
        memory=_MEMORY,
        every=HORIZONS[0],
    )


def given(episode: Episode) -> Tensor:
    """(T, 2) basal rates in U/h and boluses in U."""
    return torch.from_numpy(np.array(episode.actions[:, :2], np.float32))


def watched(model: WorldModel, eye: Eye, life: Life) -> Watching:
    """Watch two days."""
    monitor = Monitor(model, eye.trust, level=eye.level)
    episode, seen = life.episode, see(model, life.episode)
    (departed,) = departures_of(
        eye.departures, [readings(episode)], [errors_of(model, episode, seen)], [given(episode)]
    )
    return Watching(life, list(verdicts_of(monitor, episode)), departed, eye.level)


@dataclass(frozen=True)
class Alarms:
    """Over n lives that had not alarmed before `since`: the shares in which the monitor and departures alarmed from
    then on, within the second day, in which either did, and the median hours until then, NaN where none did.
    """

    n: int
    monitor: float
    departures: float
    either: float
    hours: float


def alarms(model: WorldModel, eye: Eye, episodes: Sequence[Episode], *, since: int = 0) -> Alarms:
    """How often they alarm, and how soon."""
    trust, seen = eye.trust, [see(model, e) for e in episodes]
    scores = [trust.scores(model, s) for s in seen]
    p = trust.surprise_p(torch.stack([s.surprise for s in scores]), tail=True)
    new = trust.novelty_p(torch.stack([s.novelty for s in scores]), tail=True)
    paths = torch.stack(evidence_paths(p, new, trust.length, trust.memory(model)), dim=-1)
    limits = torch.tensor([trust.thresholds(eye.level, t) for t in range(paths.shape[1])])
    departed = departures_of(
        eye.departures,
        [readings(e) for e in episodes],
        [errors_of(model, e, s) for e, s in zip(episodes, seen, strict=True)],
        [given(e) for e in episodes],
    )
    never = paths.shape[1]
    both = np.stack(
        [
            _first((paths >= limits).any(-1)),
            _first(torch.stack([d.alarms(eye.level).any(1) for d in departed])),
        ],
        axis=1,
    )
    counted = both[both.min(1) >= since]
    shares = [float(x.mean()) if len(counted) else np.nan for x in (*(counted < never).T, counted.min(1) < never)]
    hours = (counted.min(1) - since)[counted.min(1) < never] * MINUTES / 60
    hour = float(np.median(hours)) if len(hours) else np.nan
    return Alarms(n=len(counted), monitor=shares[0], departures=shares[1], either=shares[2], hours=hour)


def _first(over: Tensor) -> NDArray[np.int64]:
    """(E,) the first step at which (E, T) is true, T where none is."""
    steps = over.shape[1]
    return np.asarray(torch.where(over.any(1), over.int().argmax(1), steps).numpy(), np.int64)
