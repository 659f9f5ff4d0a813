"""Calibrates a run on episodes that it was not trained on, and watches episodes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError
from foretell.model.checkpoint import Checkpoint, load, save
from foretell.spec import Episode
from foretell.training import TrainRecord
from foretell.trust.calibration import Calibration, calibrate, fit, require_episodes
from foretell.trust.monitor import Kind, Monitor

PART = "trust"
FIT_ON = 400
"""Training episodes that surprise and novelty are fitted on, at most."""

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
    """Fit trust on a run's training episodes, unless that was done, calibrate it on others, and add it to the run.

    store: the episodes to calibrate on; None: those that the run held out. Of the run's own store only the held-out
    ones are taken. level: of alarms that must be possible. training_store: where the episodes of the training are
    now, if not where they were. Returns a JSON-serialisable summary.
    Raises DataError where episodes are too few, gone, or among those that the run was trained on.
    """
    found, record = load(run), TrainRecord.read(run)
    own = EpisodeStore(Path(record.store) if training_store is None else training_store) if store is None else store
    found.model.spec.require(own.spec, str(own.path))
    episodes = unseen(own, record, run)
    require_episodes(len(episodes), level)
    fitted = found.parts.get(PART)
    if not isinstance(fitted, Calibration):
        say("fitting surprise and novelty on the training episodes")
        fitted = fit(found.model, _training(record, run, training_store), seed=seed)
    say(f"calibrating on {len(episodes):,} episodes of {own.path}")
    made = calibrate(fitted, found.model, (own.read(i) for i in episodes), seed=seed, level=level)
    save(run, found.model, {**found.parts, PART: made})
    return {
        "run": str(run),
        "store": str(own.path),
        "episodes": len(episodes),
        "for_alarms": made.episodes,
        "lowest_level": made.lowest,
        "steps": made.length,
    }


def unseen(store: EpisodeStore, record: TrainRecord, run: Path) -> Sequence[int]:
    """Numbers of the episodes of a store to calibrate on: all, or those held out where the run learned from the store.

    Raises DataError where others of them were trained on, or none is left.
    """
    if store.fingerprint() == record.fingerprint:
        if not record.held_out:
            raise DataError(f"{run}: no episode was held out of {store.path}; calibrate on episodes of another store")
        return record.held_out
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
    place = Path(record.store) if moved is None else moved
    if not place.exists():
        raise DataError(
            f"{place}: the episodes that {run} learned from are gone; say where they are with --training-store"
        )
    store = EpisodeStore(place)
    if store.fingerprint() != record.fingerprint:
        raise DataError(f"{place}: other episodes than those that {run} learned from")
    count = min(FIT_ON, len(record.training))
    for k in range(count):
        yield store.read(record.training[k * len(record.training) // count])


def events_of(monitor: Monitor, episode: Episode, number: int) -> Iterator[dict[str, Any]]:
    """The steps of an episode at which trust is lost, changes its reason, or returns: verdicts, JSON-serialisable."""
    monitor.reset()
    before: Kind | None = None
    for t in range(len(episode.actions) + 1):
        seen = {name: values[t] for name, values in episode.observations.items()}
        masks = {name: mask[t] for name, mask in episode.valid.items()}
        verdict = monitor.step(seen, episode.actions[t - 1] if t else None, masks)
        if verdict.kind != before:
            yield {"episode": number, **verdict.to_json()}
        before = verdict.kind
