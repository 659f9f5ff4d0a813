"""Questions to a run: fits what it needs to know how far its logs can answer, and asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError
from foretell.evaluation.trust import trained_on
from foretell.model.checkpoint import Checkpoint, load, save
from foretell.model.readout import Grounded, Readout, Reads
from foretell.training import TrainRecord
from foretell.trust.intervals import Intervals
from foretell.trust.overlap import Overlap, fit_overlap

PART = "overlap"
_STEPS = 400_000
"""Training steps that overlap is judged by, at most."""


def overlap_of(run: Path, *, seed: int, training_store: Path | None = None) -> tuple[Checkpoint, Overlap]:
    """A run and the overlap of the logs that it learned from, fitted and added to the run where it was not.

    Raises DataError where the training episodes are gone, SpecError where nobody acts in them or nothing is measured.
    """
    found = load(run)
    part = found.parts.get(PART)
    if isinstance(part, Overlap):
        return found, part
    store, numbers = trained_on(TrainRecord.read(run), run, training_store)
    made = overlap_in(store, numbers, seed=seed)
    parts = {**found.parts, PART: made}
    save(run, found.model, parts)
    return Checkpoint(found.model, parts), made


def overlap_in(store: EpisodeStore, numbers: Sequence[int], *, seed: int) -> Overlap:
    """The overlap of some episodes of a store; errors as in `fit_overlap`."""
    most = max(1, _STEPS // max(int(store.lengths.max()), 1))
    names = [c.name for c in store.spec.observations if c.kind == "vector"]
    return fit_overlap(store.spec, [store.read(i, names) for i in numbers[:: -(-len(numbers) // most)]], seed=seed)


def reads_of(found: Checkpoint, channel: str | None, run: Path) -> tuple[Reads, Intervals | None]:
    """What reads a channel (None: the only one, or the first) in a run's latents, and the intervals around it.

    Raises SpecError where nothing reads it, saying what is read.
    """
    readouts = [p for p in found.parts.values() if isinstance(p, Readout)]
    known: dict[str, Reads] = {r.channel: r for r in readouts}
    known |= {name: Grounded(found.model, name) for name in found.model.config.grounded}
    if not known:
        raise SpecError(f"{run}: nothing can be read in its latents; train with --model.grounded CHANNEL")
    name = next(iter(found.model.config.grounded), next(iter(known))) if channel is None else channel
    if name not in known:
        raise SpecError(f"{run}: {', '.join(known)} can be read in its latents, got {name!r}")
    part = found.parts.get(f"intervals.{name}")
    return known[name], part if isinstance(part, Intervals) else None
