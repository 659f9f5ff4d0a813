"""The training loop: batches in, a run folder with a checkpoint, a log and the means to go on out."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from foretell.episodes.batch import Batch
from foretell.episodes.cache import ACTION
from foretell.episodes.statistics import Statistics, statistics
from foretell.episodes.store import EpisodeStore
from foretell.episodes.windows import Windows
from foretell.errors import CheckpointError, DataError, SpecError, TrainingError
from foretell.model import checkpoint
from foretell.model.latents import encode_episodes
from foretell.model.world_model import WorldModel
from foretell.objective.cutouts import Things, find_things, seeing
from foretell.objective.objective import Objective
from foretell.spec import Spec
from foretell.training.card import write_card
from foretell.training.config import TrainConfig, resolve_precision
from foretell.training.distribution import Ranks, joined
from foretell.training.gains import check, parse, scaled
from foretell.training.log import Log, require
from foretell.training.practice import practise
from foretell.training.record import TrainRecord, describe
from foretell.training.refine import refine_predictor
from foretell.training.schedule import learning_rate, split
from foretell.training.state import PATH as STATE
from foretell.training.state import Progress, load_state, save_state
from foretell.training.temporal import fit_distance

COLLAPSED = 0.05
PATIENCE = 100
"""Steps on end with latents less spread than `COLLAPSED` that stop a run: they begin close together, too."""

_PICTURES = 4000
"""Pictures that things are looked for in."""

OnStep = Callable[[int, Mapping[str, float]], None]


def train(
    store: EpisodeStore | Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    resume: bool = False,
    init: Path | None = None,
    on_step: OnStep | None = None,
    cache: Path | None = None,
) -> WorldModel:
    """Train a world model on a store and write the run folder `out`: config.json and model.safetensors (the
    checkpoint), train.json (how it was made), card.md (the same for people, and what it does not know), log.jsonl,
    and resume/ (where it goes on when interrupted).

    resume: go on with the run at `out`, to bitwise the weights of a run that was never interrupted (on one
    machine, with as many threads); a run that is finished is returned as it is. init: a run to begin with the
    weights and the normalisation of, whose model has the same spec and sizes. on_step: called after each step
    with the number of steps done and the latest record of the log. cache: folder for decoded episodes (None:
    inside the store). Under torchrun each process trains on its share of every batch.

    Raises DataError if `out` exists (or, to resume, does not), SpecError for settings that do not fit the store,
    the device or the run to resume, TrainingError if the loss is not finite or the latents collapse: the last
    good checkpoint stays. An interruption (SIGINT or SIGTERM) saves, then raises KeyboardInterrupt.
    """
    config, out = config or TrainConfig(), Path(out)
    _check_out(out, resume)
    require(config.tracker)
    store = store if isinstance(store, EpisodeStore) else EpisodeStore(store)
    with joined(config.device) as ranks:
        ranks.require_even(config.batch, config.group)
        run = _begin(store, out, config, ranks, resume)
        if run.finished:
            return checkpoint.load(out, ranks.device).model
        if not ranks.first:
            ranks.wait()
        sizes = config.model
        windows = Windows(
            store, length=config.length, block=sizes.block, look=sizes.look, episodes=run.training, cache=cache
        )
        if ranks.first:
            ranks.wait()
        return _Training(windows, out, run, ranks, init).run(on_step)


def _check_out(out: Path, resume: bool) -> None:
    if resume and not out.is_dir():
        raise DataError(f"{out}: a run to resume expected, there is none; leave --resume out to begin one")
    if not resume and (out.exists() or out.is_symlink()):
        raise DataError(f"{out}: exists; choose another --out, or --resume to go on with that run")
    # Before the work, not after it.
    above = next((p for p in out.absolute().parents if p.exists()), Path("/"))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise DataError(f"{out}: cannot be made in {above}; choose another --out")


def _begin(store: EpisodeStore, out: Path, config: TrainConfig, ranks: Ranks, resume: bool) -> TrainRecord:
    """The record of the run: its own where it is resumed, else a new one."""
    if resume:
        found = TrainRecord.read(out)
        found.require_same(config, store, out)
        return replace(found, config=config)
    training, held_out = split(store.groups, config.holdout, config.seed)
    return TrainRecord(
        config=config,
        store=str(store.path.resolve()),
        fingerprint=store.fingerprint(),
        training=training,
        held_out=held_out,
        contents=[store.content(i) for i in training] if ranks.first else [],
        groups=sorted({store.groups[i] for i in training} - {""}),
        longest=int(store.lengths[training].max()),
        device=str(ranks.device),
        precision=resolve_precision(config.precision, ranks.device),
        ranks=ranks.size,
        machine=describe(),
    )


def _ranges(found: Statistics, spec: Spec) -> dict[str, list[list[float]]]:
    """Lowest and highest value of each field that has any; nothing is said of images."""
    names = [c.name for c in spec.observations if c.kind != "image"] + ["action"] * bool(spec.action.size)
    return {
        n: [
            [float(low), float(high)] if low <= high else []
            for low, high in zip(found.low[n], found.high[n], strict=True)
        ]
        for n in names
    }


def _begin_with(model: WorldModel, run: Path) -> None:
    """Give the model the weights and normalisation of a run."""
    found = checkpoint.load(run).model
    found.spec.require(model.spec, f"{run}, to begin with")
    if found.config != model.config:
        raise SpecError(f"{run}: a model to begin with of sizes {model.config} expected, got {found.config}")
    model.load_state_dict(found.state_dict())


def _things(model: WorldModel, windows: Windows, episodes: Sequence[int], config: TrainConfig) -> Things:
    """What moves in some of the pictures that are trained on."""
    channel, store, cache = seeing(model), windows.store, windows.cache
    rows = np.concatenate([cache.starts[i] + np.arange(store.lengths[i]) for i in episodes])
    there = cache.valid.get(channel)
    rows = rows if there is None else rows[there[rows]]
    some = np.random.default_rng(config.seed).permutation(len(rows))[:_PICTURES]
    return find_things(cache.values[channel][np.sort(rows[some])], where=f"objective: cutouts, channel {channel}")


class _Training:
    """One process's part of a run, from the weights it starts with to the checkpoint at its end."""

    def __init__(self, windows: Windows, out: Path, run: TrainRecord, ranks: Ranks, init: Path | None) -> None:
        self.windows, self.out, self.ranks, self.config = windows, out, ranks, run.config
        self.gains = [parse(text) for text in self.config.gains]
        check(self.gains, windows.store.spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            found = statistics(windows.store, run.training)
            model = WorldModel(windows.store.spec, self.config.model, found)
            if init is not None:
                _begin_with(model, init)
            elif self.config.model.look > 1:
                # The first batch of all ranks together, so that each begins with the same.
                first = windows.batch(
                    windows.indices(0, self.config.batch, seed=self.config.seed, group=self.config.group)
                )
                model.fit_stretches(first.observations, first.valid)
            things = _things(model, windows, run.training, self.config) if self.config.objective.cutouts else None
            self.objective = Objective(model, self.config.objective, things).to(ranks.device)
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        parameters = sum(p.numel() for p in model.parameters())
        self.run_record = replace(run, parameters=parameters, ranges=_ranges(found, windows.store.spec))
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=ranks.device.type in ("cpu", "cuda"),
        )
        self.precision = resolve_precision(self.config.precision, ranks.device)
        self.progress = Progress()
        if (out / STATE).exists():
            self.progress = load_state(out, self.objective, self.optimizer)
        elif (out / checkpoint.WEIGHTS).exists():
            raise CheckpointError(f"{out / STATE}: the state to resume from expected, there is none")
        self.ranks.wait()
        self.low_since: int | None = None
        self.healthy = torch.ones((), dtype=torch.bool, device=ranks.device)
        self.forward = torch.compile(self.objective) if self.config.compile else self.objective

    def run(self, on_step: OnStep | None) -> WorldModel:
        """Train to the end; returns the model in evaluation mode."""
        config = self.config
        if not self.ranks.first:
            with _interruptible(self.ranks.size) as stopped:
                self._steps(on_step=None, log=None, stopped=stopped)
            return self.objective.model.eval()
        self.out.mkdir(parents=True, exist_ok=True)
        if self.progress.step in (0, config.steps):
            # Killed after the state of the last step was saved, there is nothing left but to write the rest.
            self._save(self.progress)
        with (
            Log(self.out, config.tracker, config.to_json(), self.progress.step) as log,
            _interruptible(self.ranks.size) as stopped,
        ):
            self._steps(on_step, log, stopped)
        model = self.objective.model.eval()
        heads = self._finish(model)
        checkpoint.save(self.out, model, heads)
        record = replace(TrainRecord.read(self.out), finished=True)
        write_card(self.out, model, record)
        # Last: a run is finished when its record says so.
        record.write(self.out)
        return model

    def _finish(self, model: WorldModel) -> dict[str, nn.Module]:
        """What is learned on the latents of the episodes trained on: the predictor anew, in place, and the heads."""
        config = self.config
        acts = bool(model.spec.action.size)
        if not (config.refine.steps or (acts and (config.distance.steps or config.practice.steps))):
            return {}
        store, episodes = self.windows.store, self.run_record.training
        wanted = max(1, round(len(episodes) * min(1.0, config.frozen_states / store.lengths[episodes].sum())))
        some = [episodes[i * len(episodes) // wanted] for i in range(wanted)]
        cache = self.windows.cache
        latents = encode_episodes(model, store, some, cache=cache)
        stretches = (slice(cache.starts[i], cache.starts[i] + store.lengths[i] - 1) for i in some)
        actions = [torch.from_numpy(cache.values[ACTION][stretch]) for stretch in stretches]
        refine_predictor(model, latents, actions, config.refine, seed=config.seed)
        heads: dict[str, nn.Module] = {}
        if acts and config.distance.steps:
            distance = fit_distance(model, latents, actions, config.distance, seed=config.seed)
            heads["temporal_distance"] = distance.to(model.device)
        if acts and config.practice.steps:
            fast = resolve_precision("auto", model.device) == "bfloat16"
            heads["actor_critic"] = practise(model, latents, actions, config.practice, seed=config.seed, fast=fast)
        return heads

    def _steps(self, on_step: OnStep | None, log: Log | None, stopped: threading.Event) -> None:
        config, first = self.config, self.progress.step
        started = saved = logged = time.perf_counter()
        logged_step, record = first, dict[str, float]()
        self.objective.train()
        for step, batch in self._batches(first):
            found = self._step(step, batch)
            done, now = step + 1, time.perf_counter()
            progress = Progress(done, self.progress.seconds + now - started)
            last = done == config.steps
            if last or done % config.log_steps == 0:
                record = {
                    "step": done,
                    **self._scalars(found),
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "frames_per_second": (done - logged_step) * config.batch * config.length / (now - logged),
                    "seconds": progress.seconds,
                }
                logged, logged_step = now, done
                if log is not None:
                    log.write(record)
                self._watch(record)
            if on_step is not None:
                on_step(done, record)
            halt = self.ranks.any(stopped.is_set())
            due = bool(config.checkpoint_steps) and done % config.checkpoint_steps == 0
            due = due or now - saved >= config.checkpoint_seconds
            if self.ranks.first and (last or halt or (due and self.low_since is None)):
                self._require_finite(done)
                self._save(progress)
                saved = time.perf_counter()
            if halt and not last:
                raise KeyboardInterrupt

    def _step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step; the terms of the loss on this rank's share of the batch."""
        config, device = self.config, self.ranks.device
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps=config.steps, warmup=config.warmup, peak=config.learning_rate)
        # Drawn on the CPU from seed and step alone: the same on all ranks, on every device, and when resumed.
        generator = torch.Generator().manual_seed((config.seed << 32) % 2**62 + step)
        if self.gains:
            ranks, spec = self.ranks, self.windows.store.spec
            batch = scaled(batch, self.gains, spec, generator, rank=ranks.rank, ranks=ranks.size, group=config.group)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            found: dict[str, Tensor] = self.forward(batch.to(device), generator, step)
        self.optimizer.zero_grad()
        found["loss"].backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.healthy &= torch.isfinite(norm) & torch.isfinite(found["loss"].detach())
        if device.type == "cpu":
            # Elsewhere asking would make the device wait; there it is asked before anything is saved.
            self._require_finite(step + 1)
        self.optimizer.step()
        self.objective.after_step()
        return {**found, "gradient": norm}

    def _batches(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Steps and this rank's part of their batches; the next is gathered while one is trained on."""
        config = self.config

        def gather(step: int) -> Batch:
            return self.windows.batch(
                self.windows.indices(
                    step,
                    config.batch,
                    seed=config.seed,
                    rank=self.ranks.rank,
                    ranks=self.ranks.size,
                    group=config.group,
                )
            )

        if self.ranks.device.type == "cpu":
            # A second thread would only take cores, and spin on them, that the step computes with.
            yield from ((step, gather(step)) for step in range(first, config.steps))
            return
        with ThreadPoolExecutor(1, "batches") as pool:
            coming = pool.submit(gather, first)
            for step in range(first, config.steps):
                batch = coming.result()
                if step + 1 < config.steps:
                    coming = pool.submit(gather, step + 1)
                yield step, batch

    def _scalars(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        values = self.ranks.average(torch.stack([v.detach().float() for v in found.values()]))
        return dict(zip(found, values.tolist(), strict=True))

    def _watch(self, record: Mapping[str, float]) -> None:
        """Raise TrainingError where the run cannot come to anything."""
        step, spread, config = int(record["step"]), record["spread"], self.config
        self._require_finite(step)
        objective = config.objective
        settled = step > objective.settle + objective.ramp + config.warmup
        if not (settled and spread < COLLAPSED):
            self.low_since = None
        elif self.low_since is None:
            self.low_since = step
        elif step - self.low_since >= PATIENCE:
            raise TrainingError(
                f"{self.out}: the latents have collapsed: spread {spread:.3g} at step {step} where about 1 is healthy;"
                f" raise sigreg (now {objective.sigreg:g}) or inverse (now {objective.inverse:g}), or lower"
                " prediction; the last good checkpoint stays"
            )

    def _require_finite(self, step: int) -> None:
        if not bool(self.healthy):
            raise TrainingError(
                f"{self.out}: the loss is not finite at step {step}; lower learning_rate"
                f" (now {self.config.learning_rate:g}) or clip (now {self.config.clip:g}), use precision float32,"
                " or look for extreme values with `foretell info STORE`; the last good checkpoint stays"
            )

    def _save(self, progress: Progress) -> None:
        record = replace(self.run_record, steps=progress.step, seconds=progress.seconds)
        if not progress.step:
            # First of all: without it there is no telling later what the folder is.
            record.write(self.out)
        save_state(self.out, self.objective, self.optimizer, progress)
        checkpoint.save(self.out, self.objective.model)
        record.write(self.out)


@contextmanager
def _interruptible(ranks: int) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a step is never cut in half.

    A second signal acts at once, but not under torchrun: it passes on what the terminal has sent already.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _: object) -> None:
        stopped.set()
        if ranks == 1:
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
