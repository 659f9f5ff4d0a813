"""Calibrates a run on episodes that it was not trained on, and watches episodes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from foretell.episodes.store import EpisodeStore
from foretell.episodes.units import require_units
from foretell.errors import DataError, SpecError
from foretell.model.checkpoint import Checkpoint, load, save
from foretell.model.readout import Grounded, Readout
from foretell.model.world_model import WorldModel
from foretell.readout import channel_values, fit_readout
from foretell.spec import Episode
from foretell.training import TrainRecord
from foretell.training.card import write_calibration
from foretell.trust.calibration import Calibration, Seen, calibrate, enough, fit, refit, require_episodes, see
from foretell.trust.departures import KINDS, Departed, Departures, departures_of, fit_departures
from foretell.trust.intervals import Intervals, errors_ahead, fit_intervals
from foretell.trust.monitor import Monitor, Verdict
from foretell.trust.support import Support, calibrate_support, fit_support

PART, SUPPORT = "trust", "support"
FIT_ON = 400
"""Training episodes that surprise and novelty are fitted on, at most."""
MANY = 1000
"""Calibration episodes from which on half of them tell what residuals are like on episodes not trained on."""
LONGEST, PER_EPISODE = 50, 4
"""Steps of the longest intervals that travel with a run; errors kept of each calibration episode."""

T = TypeVar("T")
Say = Callable[[str], None]


def calibration_of(found: Checkpoint, run: Path) -> Calibration:
    """The calibration that travels with a run; DataError, saying how to make one, where there is none."""
    part = found.parts.get(PART)
    if not isinstance(part, Calibration) or not part.episodes:
        raise DataError(f"{run}: not calibrated; `foretell calibrate {run} STORE` does it, on episodes of its kind")
    return part


def calibrate_run(
    run: Path,
    store: EpisodeStore | None = None,
    *,
    seed: int,
    level: float | None = None,
    training_store: Path | None = None,
    say: Say = lambda what: None,
) -> dict[str, Any]:
    """Fit trust on a run's training episodes, unless that was done, calibrate it on others, and add it to the run:
    p-values and alarms, plan support, and intervals around readouts.

    store: the episodes to calibrate on; None: those that the run held out. Of the run's own store only the held-out
    ones are taken. From `MANY` on, half of them teach what residuals are like where the model was not trained, and the
    others calibrate. level: of alarms that must be possible. training_store: where the episodes of the training are
    now, if not where they were. Returns a JSON-serialisable summary.
    Raises DataError where episodes are too few, gone, or among those that the run was trained on.
    """
    found, record = load(run), TrainRecord.read(run)
    own = EpisodeStore(Path(record.store) if training_store is None else training_store) if store is None else store
    found.model.spec.require(own.spec, str(own.path))
    episodes = unseen(own, record, run)
    for i in episodes[:1]:
        require_units(own.spec, own.read(i), found.model.learned_from, f"{own.path}: episode {i}")
    require_episodes(len(episodes), level)
    apart, episodes = _apart(episodes, level, seed)
    elsewhere = (see(found.model, own.read(i)) for i in apart)
    fitted, support = found.parts.get(PART), found.parts.get(SUPPORT)
    if not isinstance(fitted, Calibration):
        say("fitting surprise, novelty and plan support on the training episodes")
        passed = _Passing(found.model, _training(record, run, training_store))
        fitted = fit(found.model, passed, elsewhere, seed=seed)
        support = _possible(say, partial(fit_support, found.model, passed.latents, passed.actions, seed=seed))
    elif apart:
        say(f"learning what residuals are like on {len(apart):,} episodes of {own.path}")
        fitted = refit(fitted, found.model, elsewhere, seed=seed)
    say(f"calibrating on {len(episodes):,} episodes of {own.path}")
    passed = _Passing(found.model, (own.read(i) for i in episodes))
    made = calibrate(fitted, found.model, passed, seed=seed, level=level)
    parts: dict[str, nn.Module] = {PART: made}
    if isinstance(support, Support):
        pairs = zip(passed.latents, passed.actions, strict=True)
        support = _possible(say, partial(calibrate_support, support, found.model, pairs, seed=seed))
        parts |= {} if support is None else {SUPPORT: support}
    readouts = [p for p in found.parts.values() if isinstance(p, Readout)]
    if not readouts and found.model.spec.quantities:
        say(f"fitting a readout of {found.model.spec.quantities[0].name}")
        fitted_now = _possible(say, partial(_readout, found.model, record, run, training_store, seed))
        readouts = [] if fitted_now is None else [fitted_now]
        parts |= {f"readout.{r.channel}": r for r in readouts}
    for readout in readouts:
        intervals = _possible(say, partial(_intervals, found.model, readout, own, episodes, passed))
        parts |= {} if intervals is None else {f"intervals.{readout.channel}": intervals}
    for channel in found.model.config.grounded:
        both = _possible(say, partial(_grounded, found.model, channel, own, episodes, passed))
        if both is not None:
            parts |= {f"intervals.{channel}": both[0], f"departures.{channel}": both[1]}
    save(run, found.model, {**found.parts, **parts})
    tell(run, found.model, {**found.parts, **parts}, own.path, len(episodes))
    return {
        "run": str(run),
        "store": str(own.path),
        "episodes": len(episodes),
        "for_alarms": made.episodes,
        "lowest_level": made.lowest,
        "steps": made.length,
        "plans": support.plans if isinstance(support, Support) else 0,
    }


def tell(run: Path, model: WorldModel, parts: Mapping[str, nn.Module], store: Path, episodes: int) -> None:
    """Say on the run's card how far these parts are calibrated, on so many episodes of a store."""
    made = parts[PART]
    assert isinstance(made, Calibration)
    around = [f"{p.channel}, up to {max(p.horizons)} steps ahead" for p in parts.values() if isinstance(p, Intervals)]
    read = [p.channel for p in parts.values() if isinstance(p, Readout | Departures)]
    said = [
        f"Calibrated on {episodes:,} episodes of {store.resolve().name}, the shortest of {made.length:,} steps."
        f" Alarms may be set to a share of false ones of {made.lowest:.2g} or more; the share is kept for episodes like"
        " these, and nothing is said of others. Calibrate anew where the world has changed.",
        f"Readouts: {', '.join(read) or 'none'}. Intervals around: {'; '.join(around) or 'none'}. Plan support:"
        f" {'yes' if SUPPORT in parts else 'no'}.",
    ]
    write_calibration(run, model, said)


def _apart(episodes: Sequence[int], level: float | None, seed: int) -> tuple[list[int], list[int]]:
    """Of calibration episodes those to learn residuals from, none unless there are many, and those to calibrate on."""
    half = len(episodes) // 2
    if len(episodes) < MANY or not enough(len(episodes) - half, level):
        return [], list(episodes)
    drawn = np.random.default_rng([seed, 0xA9A]).permutation(np.asarray(episodes)).tolist()
    return sorted(drawn[:half]), sorted(drawn[half:])


def _readout(model: WorldModel, record: TrainRecord, run: Path, moved: Path | None, seed: int) -> Readout:
    """Of the spec's first quantity, fitted on training episodes."""
    store, numbers = trained_on(record, run, moved)
    return fit_readout(model, store, model.spec.quantities[0].name, numbers, seed=seed)


def _intervals(
    model: WorldModel, readout: Readout, store: EpisodeStore, episodes: Sequence[int], passed: _Passing
) -> Intervals:
    """Around a readout, up to `LONGEST` steps ahead, from calibration episodes of a store."""
    longest = min(LONGEST, min(map(len, passed.latents)) - 1 - model.config.history * model.config.block)
    horizons = range(1, longest + 1)
    truths, known = channel_values(store, readout.channel, episodes)
    errors = [
        errors_ahead(model, readout, z, a, t.masked_fill(~k, float("nan")), horizons)
        for z, a, t, k in zip(passed.latents, passed.actions, truths, known, strict=True)
    ]
    return fit_intervals(readout, horizons, errors, steps=PER_EPISODE)


def _grounded(
    model: WorldModel, channel: str, store: EpisodeStore, episodes: Sequence[int], passed: _Passing
) -> tuple[Intervals, Departures]:
    """Around what a latent holds of a channel itself, at the end of each block up to `LONGEST` steps, and what that
    channel, errors of its forecasts and the actions that are chosen are like, from calibration episodes.
    """
    block, reads = model.config.block, Grounded(model, channel)
    shortest = min(map(len, passed.latents))
    horizons = range(block, max(block, min(LONGEST, shortest - 1 - model.config.history * block)) + 1, block)
    truths, known = channel_values(store, channel, episodes)
    values = [t.masked_fill(~k, float("nan")) for t, k in zip(truths, known, strict=True)]
    errors = [
        errors_ahead(model, reads, z, a, v, horizons)
        for z, a, v in zip(passed.latents, passed.actions, values, strict=True)
    ]
    chosen = [a[:, torch.tensor(model.spec.action.chosen)] for a in passed.actions]
    departures = fit_departures(channel, horizons, values, errors, chosen, memory=max(1.0, shortest / 4), every=block)
    return fit_intervals(reads, horizons, errors, steps=PER_EPISODE), departures


def departed(model: WorldModel, made: Departures, episode: Episode) -> Departed:
    """How an episode departs from calibration, at each step of it."""
    seen, reads = see(model, episode), Grounded(model, made.channel)
    values = torch.from_numpy(np.array(episode.observations[made.channel], np.float32)).reshape(len(episode), -1)
    if made.channel in episode.valid:
        there = torch.from_numpy(episode.valid[made.channel].reshape(len(values), -1))
        values = values.masked_fill(~there, float("nan"))
    errors = errors_ahead(model, reads, seen.latents, seen.actions, values, made.horizons)
    (found,) = departures_of(made, [values], [errors], [seen.actions[:, torch.tensor(model.spec.action.chosen)]])
    return found


def departing(model: WorldModel, made: Departures, episode: Episode, level: float) -> list[tuple[int, str]]:
    """Steps at which a kind of departure begins to alarm, and what is said of it."""
    found = departed(model, made, episode)
    alarms = found.alarms(level)
    begins = alarms & ~torch.cat([torch.zeros_like(alarms[:1]), alarms[:-1]])
    return [(t, found.reason(t, KINDS[k], made.channel)) for t, k in begins.nonzero().tolist()]


def _possible(say: Say, make: Callable[[], T]) -> T | None:
    """What is made where the episodes are long enough for it; what is not made is said."""
    try:
        return make()
    except (DataError, SpecError) as error:
        say(f"without {error}")
        return None


class _Passing:
    """Sees episodes one after the other and keeps, of what was seen, the latents and actions only."""

    def __init__(self, model: WorldModel, episodes: Iterable[Episode]) -> None:
        self._model, self._episodes = model, episodes
        self.latents: list[Tensor] = []
        self.actions: list[Tensor] = []

    def __iter__(self) -> Iterator[Seen]:
        for episode in self._episodes:
            seen = see(self._model, episode)
            self.latents.append(seen.latents)
            self.actions.append(seen.actions)
            yield seen


def unseen(store: EpisodeStore, record: TrainRecord, run: Path) -> Sequence[int]:
    """Numbers of the episodes of a store to calibrate on: all, or those held out where the run learned from the store.

    Raises DataError where others of them were trained on, or none is left.
    """
    if store.fingerprint() == record.fingerprint:
        if not record.held_out:
            raise DataError(f"{run}: no episode was held out of {store.path}; calibrate on episodes of another store")
        return record.held_out
    both = sorted(set(record.groups) & set(store.groups))
    if both:
        raise DataError(
            f"{store.path}: others than {run} was trained on expected, got episodes of {', '.join(both[:5])}"
            f"{', ...' if len(both) > 5 else ''}, of whom it has learned; record others to calibrate on"
        )
    trained = set(record.contents)
    known = [i for i in range(len(store)) if store.content(i) in trained]
    if known:
        some = ", ".join(map(str, known[:5])) + (", ..." if len(known) > 5 else "")
        raise DataError(
            f"{store.path}: episodes that {run} was not trained on expected, got {len(known)} that it was: {some};"
            f" what it has learned by heart does not tell how far to trust it"
        )
    return range(len(store))


def _training(record: TrainRecord, run: Path, moved: Path | None) -> Iterator[Episode]:
    """Evenly chosen episodes that the run was trained on."""
    store, numbers = trained_on(record, run, moved)
    return (store.read(i) for i in numbers)


def trained_on(record: TrainRecord, run: Path, moved: Path | None) -> tuple[EpisodeStore, list[int]]:
    """The store that the run was trained on, and evenly chosen numbers of such episodes."""
    place = Path(record.store) if moved is None else moved
    if not place.exists():
        raise DataError(
            f"{place}: the episodes that {run} learned from are gone; say where they are with --training-store"
        )
    store = EpisodeStore(place)
    if store.fingerprint() != record.fingerprint:
        raise DataError(f"{place}: other episodes than those that {run} learned from")
    count = min(FIT_ON, len(record.training))
    return store, [record.training[k * len(record.training) // count] for k in range(count)]


def verdicts_of(monitor: Monitor, episode: Episode) -> Iterator[Verdict]:
    """The verdict after each step of an episode."""
    monitor.reset()
    for t in range(len(episode.actions) + 1):
        seen = {name: values[t] for name, values in episode.observations.items()}
        masks = {name: mask[t] for name, mask in episode.valid.items()}
        yield monitor.step(seen, episode.actions[t - 1] if t else None, masks)


def is_event(verdict: Verdict, before: Verdict | None) -> bool:
    """Whether trust is lost at a step, changes its reason, or returns."""
    return verdict.kind != (None if before is None else before.kind)


def why(reasons: Sequence[str]) -> str:
    """What an event says: its reasons, or that trust has returned."""
    return "; ".join(reasons) or "as in calibration again"
