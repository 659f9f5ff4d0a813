"""Trust in two rooms: does the model say when its predictions do not hold, and only then?

Events are those of `foretell.worlds.two_rooms.events`; nothing here was trained on any of them. Ours is one calibrated
monitor with one level of false alarms for everything. The baselines are told by which of their scores each event is
judged, too: anomaly detectors on pixels and on their differences, and a deep ensemble on our latents.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from benchmarks.result import Options, Row, milliseconds, run, share
from benchmarks.two_rooms import RANDOM, Lines, small
from foretell.episodes.store import EpisodeStore
from foretell.evaluation.demo import DEMO
from foretell.evaluation.experiment import EPISODES, RUN, Experiment, record_world, train_stages
from foretell.evaluation.intervals import bootstrap
from foretell.evaluation.protocols import run_controller
from foretell.evaluation.suite import EvaluationConfig, controller_for
from foretell.model.checkpoint import load
from foretell.model.predictor import Predictor
from foretell.model.readout import Readout
from foretell.model.world_model import WorldModel
from foretell.readout import fit_readout
from foretell.spec import Episode
from foretell.training import TrainRecord
from foretell.training.refine import Refine, refine_predictor
from foretell.trust.attribution import attribute_novelty, attribute_surprise
from foretell.trust.calibration import Calibration, Seen, calibrate, evidence_paths, fit, see
from foretell.trust.conformal import quantile
from foretell.trust.intervals import Intervals, LiveIntervals, ahead, errors_ahead, fit_intervals
from foretell.trust.monitor import Monitor
from foretell.trust.policy import Abstention
from foretell.worlds.two_rooms import Options as Scene
from foretell.worlds.two_rooms import TwoRoomsTask
from foretell.worlds.two_rooms.behaviour import random_walks
from foretell.worlds.two_rooms.events import EVENTS, Disturbed, Event, disturbed
from foretell.worlds.two_rooms.simulator import shortest_steps

HORIZONS = (1, 5, 10, 25, 50)
LAYOUTS: dict[str, Experiment] = {"fixed": DEMO, "random": RANDOM}
CALIBRATION, ORDINARY, EVENT, LONG, MODES, LEARNING = 90_001, 90_002, 90_003, 90_004, 90_005, 90_006
"""Seeds of what is recorded for it; the training's is 0."""
Array = NDArray[np.float64]
Score = Callable[[Episode, Seen], Array]


@dataclass(frozen=True)
class Counts:
    """Episodes: to learn residuals from, to calibrate on, ordinary ones to test, of each event, long ones, for the
    baselines, to act in, that drift.

    level: share of ordinary episodes that may alarm; `detected_at_1pct` says what it is but in quick runs.
    """

    learning: int = 4000
    calibration: int = 4000
    ordinary: int = 2000
    event: int = 100
    long: int = 200
    baseline: int = 300
    acting: int = 100
    drifting: int = 40
    level: float = 0.01


@dataclass(frozen=True)
class Trained:
    """A layout's model and heads, its scene, episodes and those trained on, and the trust calibrated for it.

    folder: where the episodes lie, for as long as this is held.
    """

    model: WorldModel
    parts: Mapping[str, nn.Module]
    scene: Scene
    store: EpisodeStore
    training: tuple[int, ...]
    trust: Calibration
    counts: Counts
    folder: tempfile.TemporaryDirectory[str]


@dataclass(frozen=True)
class Watched:
    """Log evidence (E, T) of surprise and novelty of E episodes, and the first step that alarms, T where none does.

    alarm: (E, T) by how much the one that is further passes its threshold. kinds: (E,) what the first alarm is called.
    """

    surprise: Array
    novelty: Array
    alarm: Array
    p: Array
    first: NDArray[np.int64]
    kinds: NDArray[np.str_]


@functools.cache
def trained(layout: str, options: Options) -> Trained:
    """Record, train and calibrate."""
    settings = small(LAYOUTS[layout]) if options.quick else LAYOUTS[layout]
    counts = Counts(40, 40, 6, 2, 2, 40, 2, 2, level=0.2) if options.quick else Counts()
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    lines = Lines()
    world = record_world(settings, folder, seed=0, listener=lines)
    train_stages(settings, folder, seed=0, listener=lines)
    found, record = load(folder / RUN), TrainRecord.read(folder / RUN)
    store = EpisodeStore(folder / EPISODES)
    scene = replace(Scene(**dict(world.options)), episode_steps=80)
    lines.say("fitting and calibrating trust")
    some = record.training[:400]
    fitted = fit(
        found.model,
        (see(found.model, store.read(i)) for i in some),
        (see(found.model, e) for e in random_walks(scene, counts.learning, seed=LEARNING)),
        seed=0,
        steps=20 if options.quick else None,
    )
    trust = calibrate(
        fitted,
        found.model,
        (see(found.model, e) for e in random_walks(scene, counts.calibration, seed=CALIBRATION)),
        seed=0,
    )
    return Trained(found.model, found.parts, scene, store, tuple(some), trust, counts, kept)


def watched(made: Trained, episodes: Iterable[Episode]) -> Watched:
    """What one monitor makes of episodes of one length."""
    scores = [made.trust.scores(made.model, see(made.model, e)) for e in episodes]
    surprise = torch.stack([made.trust.surprise_p(s.surprise, tail=True) for s in scores])
    novelty = torch.stack([made.trust.novelty_p(s.novelty, tail=True) for s in scores])
    overlap, length = made.trust.memory(made.model), made.trust.length
    evidence = [e.numpy() for e in evidence_paths(surprise, novelty, length, overlap)]
    steps = evidence[0].shape[1]
    limits = np.array([made.trust.thresholds(made.counts.level, t) for t in range(steps)])
    above = [e >= limits[:, i] for i, e in enumerate(evidence)]
    first = [np.where(a.any(1), a.argmax(1), steps) for a in above]
    return Watched(
        surprise=evidence[0],
        novelty=evidence[1],
        alarm=np.maximum(*(e - limits[:, i] for i, e in enumerate(evidence))),
        p=torch.stack([made.trust.surprise_p(s.surprise) for s in scores]).numpy(),
        first=np.minimum(*first),
        kinds=np.where(first[1] < first[0], "appearance", "violation"),
    )


@functools.cache
def ordinary(layout: str, options: Options) -> Watched:
    """Ordinary episodes that nothing was fitted or calibrated on."""
    made = trained(layout, options)
    return watched(made, random_walks(made.scene, made.counts.ordinary, seed=ORDINARY))


@functools.cache
def happened(layout: str, options: Options, event: Event) -> tuple[list[Disturbed], Watched]:
    """Episodes with an event, and what the monitor makes of them."""
    made = trained(layout, options)
    found = list(disturbed(event, made.scene, made.counts.event, seed=EVENT))
    return found, watched(made, (d.episode for d in found))


def false_alarms(layout: str, options: Options) -> Iterator[Row]:
    """Share of ordinary episodes that alarm; beside it longer ones, and how uniform the p-values are."""
    made, seen = trained(layout, options), ordinary(layout, options)
    longer = watched(made, random_walks(replace(made.scene, episode_steps=400), made.counts.long, seed=LONG))
    p = np.sort(seen.p[~np.isnan(seen.p)])
    beside = {
        "asked": made.counts.level,
        "episodes_of_400_steps": float((longer.first < 401).mean()),
        "kolmogorov_smirnov": float(np.abs(p - np.arange(1, len(p) + 1) / len(p)).max()),
    }
    yield share(f"trust.{layout}.false_alarm", seen.first < seen.surprise.shape[1], (0,), beside)


@functools.cache
def intervals(layout: str, options: Options) -> tuple[Readout, Intervals]:
    """A readout of the position, and its intervals at `HORIZONS` from calibration episodes."""
    made = trained(layout, options)
    steps = 20 if options.quick else 1500
    readout = fit_readout(made.model, made.store, "position", made.training, seed=0, steps=steps)
    errors = [_errors(made, readout, e) for e in random_walks(made.scene, made.counts.calibration, seed=CALIBRATION)]
    return readout, fit_intervals(readout, HORIZONS, errors)


def coverage(layout: str, options: Options) -> Iterator[Row]:
    """Share of the truth within 90% intervals of the position, by horizon in raw steps."""
    made, (readout, calibrated) = trained(layout, options), intervals(layout, options)
    widths = calibrated.half_width(0.9)
    fresh = [_errors(made, readout, e) for e in random_walks(made.scene, made.counts.baseline, seed=ORDINARY)]
    for k, horizon in enumerate(HORIZONS):
        each = []
        for e in fresh:
            known = e[~e[:, k].isnan().any(-1), k].abs()
            each.append(float((known <= widths[k]).float().mean()))
        yield _held(f"trust.{layout}.coverage_90.h{horizon}", each, {"mean_half_width_px": float(widths[k].mean())})


def drift(layout: str, options: Options) -> Iterator[Row]:
    """Share of the truth within 90% intervals, 10 steps ahead, where actuators are worn (gain 0.6) from the first step
    on: live intervals in the second half of 400 steps, beside those that stay as they were calibrated.
    """
    made, (readout, calibrated) = trained(layout, options), intervals(layout, options)
    at, worn = HORIZONS.index(10), replace(made.scene, episode_steps=400, gain=0.6)
    live_held, fixed_held = [], []
    for episode in random_walks(worn, made.counts.drifting, seed=LONG):
        live = LiveIntervals(calibrated, level=0.9)
        seen = see(made.model, episode)
        said = ahead(made.model, readout, seen.latents, seen.actions, HORIZONS)
        truth = torch.from_numpy(episode.observations["position"])
        ends = [live.step(forecast, now) for forecast, now in zip(said, truth, strict=True)]
        late = range(len(truth) // 2, len(truth) - 10)
        wide = calibrated.half_width(0.9)[at]
        for held, low, high in (
            (live_held, [ends[t][0][at] for t in late], [ends[t][1][at] for t in late]),
            (fixed_held, [said[t, at] - wide for t in late], [said[t, at] + wide for t in late]),
        ):
            outcome = truth[late.start + 10 : late.stop + 10]
            held.append(float(((outcome >= torch.stack(low)) & (outcome <= torch.stack(high))).float().mean()))
    yield _held(f"trust.{layout}.drift", live_held, {"as_calibrated": float(np.mean(fixed_held))})


def about_events(part: str, layout: str, options: Options) -> Iterator[Row]:
    """The rows of `events` under `trust.LAYOUT.PART`."""
    yield from (row for row in events(layout, options) if row.id.startswith(f"trust.{layout}.{part}"))


@functools.cache
def events(layout: str, options: Options) -> list[Row]:
    """For each event: AUROC over whole episodes, and detection at 1% false alarms.

    AUROC of violations: of what alarms, as in detection (a dot in a wall looks unlike training, too); of what is only
    new: of novelty. Beside both, surprise and novelty alone.
    """
    made, plain, others = trained(layout, options), ordinary(layout, options), baselines(layout, options)
    named: list[bool] = []
    rows: list[Row] = []
    for event in EVENTS:
        found, seen = happened(layout, options, event)
        onset = np.array([d.onset for d in found])
        typical = np.full(len(plain.surprise), int(np.median(onset)))
        areas = {
            kind: _auroc(_highest(getattr(plain, kind), typical), _highest(getattr(seen, kind), onset))
            for kind in ("alarm", "surprise", "novelty")
        }
        compared, their_detection = {}, {}
        encoded = [see(made.model, d.episode) for d in found]
        begin = np.full(made.counts.baseline, int(np.median(onset)))
        for name, baseline in others.items():
            theirs = np.stack([baseline.score(d.episode, s) for d, s in zip(found, encoded, strict=True)])
            high = _highest(theirs, onset)
            compared[name] = _auroc(_highest(baseline.ordinary, begin), high)
            early = np.array([theirs[i, :o].max() if o else -np.inf for i, o in enumerate(onset)])
            their_detection[name] = float(((high > baseline.threshold) & (early <= baseline.threshold)).mean())
        rows.append(
            Row(
                id=f"trust.{layout}.auroc.{event.id}",
                value=areas["alarm" if event.kind == "violation" else "novelty"],
                n=len(found),
                seeds=(0,),
                unit="area",
                baselines={**compared, "surprise_alone": areas["surprise"], "novelty_alone": areas["novelty"]},
            )
        )
        hit = (seen.first < seen.surprise.shape[1]) & (seen.first >= onset)
        named += (seen.kinds[hit] == event.kind).tolist()
        delay = {"delay_steps": float(np.median((seen.first - onset)[hit]))} if hit.any() else {}
        rows.append(share(f"trust.{layout}.detected_at_1pct.{event.id}", hit, (0,), {**their_detection, **delay}))
    if named:
        always = float(np.mean([e.kind == "violation" for e in EVENTS]))
        rows.append(share(f"trust.{layout}.kind_accuracy", named, (0,), {"always_violation": always}))
    return rows


@dataclass(frozen=True)
class Baseline:
    """score: (T,) of an episode. ordinary: (E, T) of ordinary ones. threshold: passed by 1% of calibration episodes."""

    score: Score
    ordinary: Array
    threshold: float


@functools.cache
def baselines(layout: str, options: Options) -> dict[str, Baseline]:
    """Anomaly detectors on pixels and on pixel differences, and an ensemble of five predictors on our latents."""
    made = trained(layout, options)
    frames = [made.store.read(i).observations["camera"] for i in made.training[:100]]
    pixels = np.concatenate([_small(f) for f in frames])
    moves = np.concatenate([_differences(f) for f in frames])
    rng = np.random.default_rng(0)
    scores: dict[str, Score] = {}
    for name, data, view in (("pixels", pixels, _small), ("differences", moves, _differences)):
        some = data[rng.permutation(len(data))[:4000]]
        pca = PCA(n_components=min(64, len(some) - 1), random_state=0).fit(some)
        forest = IsolationForest(random_state=0, n_estimators=100).fit(some)
        near = NearestNeighbors(n_neighbors=5).fit(some)
        scores[f"pca_{name}"] = _on(view, lambda x, m=pca: ((x - m.inverse_transform(m.transform(x))) ** 2).sum(1))
        scores[f"forest_{name}"] = _on(view, lambda x, m=forest: -m.score_samples(x))
        scores[f"neighbours_{name}"] = _on(view, lambda x, m=near: m.kneighbors(x)[0][:, -1])
    scores["ensemble"] = _ensemble(made, options)
    found = {}
    sets = {
        seed: [(e, see(made.model, e)) for e in random_walks(made.scene, made.counts.baseline, seed=seed)]
        for seed in (CALIBRATION, ORDINARY)
    }
    for name, score in scores.items():
        calibration = np.stack([score(*both) for both in sets[CALIBRATION]]).max(1)
        threshold = float(quantile(torch.from_numpy(calibration), 1 - made.counts.level))
        found[name] = Baseline(score, np.stack([score(*both) for both in sets[ORDINARY]]), threshold)
    return found


def _ensemble(made: Trained, options: Options) -> Score:
    """Five predictors trained apart: squared errors over the variance between them and that of their residuals."""
    seen = [see(made.model, made.store.read(i)) for i in made.training]
    latents, actions = [s.latents for s in seen], [s.actions for s in seen]
    own, config = made.model.predictor, made.model.config
    members = []
    for k in range(2 if options.quick else 5):
        torch.manual_seed(k)
        made.model.predictor = Predictor(
            config.latent, config.context, made.model.action_size, config.history, config.width, config.depth
        )
        refine_predictor(made.model, latents, actions, Refine(steps=5 if options.quick else 800), seed=k)
        members.append(made.model.predictor)
    made.model.predictor = own
    block = config.block

    def spread(s: Seen) -> tuple[Tensor, Tensor]:
        starts = s.latents[:-block]
        plan = s.actions.unfold(0, block, 1).transpose(1, 2)[: len(starts)].reshape(len(starts), -1)
        said = []
        for member in members:
            made.model.predictor = member
            with torch.no_grad():
                said.append(made.model.predict_each(starts, plan).flatten(1))
        made.model.predictor = own
        all_of_them = torch.stack(said)
        return s.latents[block:].flatten(1) - all_of_them.mean(0), all_of_them.var(0)

    residual = torch.cat([spread(s)[0] for s in seen[:100]]).var(0)

    def score(episode: Episode, s: Seen) -> Array:
        off, between = spread(s)
        return np.concatenate([np.full(block, -np.inf), (off.square() / (between + residual)).sum(1).double().numpy()])

    return score


def where(layout: str, options: Options) -> Iterator[Row]:
    """Whether the heat map's peak, at the alarm, lies within 4 px of the event, for those that have a place."""
    made = trained(layout, options)
    within: list[bool] = []
    each: dict[str, float] = {}
    for event in (e for e in EVENTS if e.placed):
        found, seen = happened(layout, options, event)
        near = []
        for i, d in enumerate(found):
            step = int(seen.first[i])
            if not d.onset <= step < seen.surprise.shape[1]:
                continue
            novel = seen.kinds[i] == "appearance"
            attribute = attribute_novelty if novel else attribute_surprise
            heat = attribute(made.model, made.trust, d.episode, step).maps["camera"]
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            place = d.place if event.name == "second_dot" else d.episode.observations["position"][step]
            near.append(bool(np.hypot(column + 0.5 - place[0], row + 0.5 - place[1]) <= 4))
        within += near
        if near:
            each[event.id] = float(np.mean(near))
    if within:
        yield share(f"trust.{layout}.where", within, (0,), each)


def abstaining(layout: str, options: Options) -> Iterator[Row]:
    """Share of episodes that end further from the goal than they began, by more than the 3 px of the task.

    The controller acts where its actions are mirrored, or hardly move anything, from the first step on, with and
    without abstention. `any_further`: the share that ends further away by however little, with abstention: what the
    first careful actions did before they were judged stays done.
    """
    made = trained(layout, options)
    config = EvaluationConfig()
    for mode, gain in (("mirrored", -1.0), ("dead", 0.02), ("ordinary", 1.0)):
        result = {}
        for name in ("with", "without"):
            guard = Abstention(Monitor(made.model, made.trust, level=made.counts.level)) if name == "with" else None
            controller = controller_for(made.model, made.parts, config, guard=guard)
            task = TwoRoomsTask(replace(made.scene, gain=gain))
            seeds = list(range(MODES, MODES + made.counts.acting))
            outcome = run_controller(task, seeds, controller, keep=len(seeds))
            goal, layouts = task.goal_truth()["position"], task.truth()["layout"]
            ends = [np.stack([t.truth["position"][k] for t in outcome.traces]) for k in (0, -1)]
            far = [shortest_steps(e, goal, layouts, made.scene.radius, 1.0) for e in ends]
            result[name] = (far[1] > far[0] + 3, outcome.solved, far[1] > far[0])
        beside = {
            "without": float(result["without"][0].mean()),
            "doing_nothing": 0.0,
            "any_further": float(result["with"][2].mean()),
            "solved": float(result["with"][1].mean()),
            "solved_without": float(result["without"][1].mean()),
        }
        yield share(f"trust.{layout}.abstain.{mode}", result["with"][0], (0,), beside)


def speed(layout: str, options: Options) -> Iterator[Row]:
    """Milliseconds of a step of the monitor, from picture to verdict."""
    made = trained(layout, options)
    monitor = Monitor(made.model, made.trust, level=made.counts.level)
    times = []
    for episode in random_walks(made.scene, 1 if options.quick else 5, seed=ORDINARY):
        monitor.reset()
        for t in range(len(episode.actions) + 1):
            seen = {"camera": episode.observations["camera"][t]}
            started = time.perf_counter()
            monitor.step(seen, episode.actions[t - 1] if t else None)
            times.append(1e3 * (time.perf_counter() - started))
    yield milliseconds(f"trust.{layout}.step_ms", times, (0,))


def _held(row_id: str, each: Sequence[float], beside: dict[str, float]) -> Row:
    """The mean of the shares of each episode that intervals held."""
    low, high = bootstrap(each, np.random.default_rng(0))
    return Row(
        id=row_id,
        value=float(np.mean(each)),
        interval=(float(low), float(high)),
        n=len(each),
        seeds=(0,),
        unit="share",
        baselines=beside,
    )


def _errors(made: Trained, readout: Readout, episode: Episode) -> Tensor:
    """(T, horizons, 2) px by which forecasts of an episode are off."""
    seen = see(made.model, episode)
    truth = torch.from_numpy(episode.observations["position"])
    return errors_ahead(made.model, readout, seen.latents, seen.actions, truth, HORIZONS)


def _auroc(plain: Array, event: Array) -> float:
    both = np.concatenate([plain, event])
    finite = np.nan_to_num(both, neginf=-1e300, posinf=1e300)
    return float(roc_auc_score(np.repeat([0, 1], [len(plain), len(event)]), finite))


def _highest(paths: Array, onset: NDArray[np.int64]) -> Array:
    """(E,) of (E, T) from each one's onset on."""
    return np.array([path[at:].max() for path, at in zip(paths, onset, strict=True)])


def _small(frames: NDArray[np.uint8]) -> Array:
    """(T, 64, 64, 3) as (T, 768): means of squares of 4 x 4 px."""
    return np.asarray(frames.reshape(len(frames), 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(frames), -1))


def _differences(frames: NDArray[np.uint8]) -> Array:
    """(T, 1536): each picture beside the change since the one before, which for the first is none."""
    flat = _small(frames)
    return np.concatenate([np.diff(flat, axis=0, prepend=flat[:1]), flat], axis=1)


def _on(view: Callable[[NDArray[np.uint8]], Array], score: Callable[[Array], Array]) -> Score:
    return lambda episode, seen: np.asarray(score(view(episode.observations["camera"])), np.float64)


if __name__ == "__main__":
    measures = {
        "false_alarm": false_alarms,
        "coverage_90": coverage,
        "drift": drift,
        **{part: functools.partial(about_events, part) for part in ("auroc", "detected_at_1pct", "kind_accuracy")},
        "where": where,
        "abstain": abstaining,
        "step_ms": speed,
    }
    run(
        "trust",
        {
            f"trust.{layout}.{name}": functools.partial(measure, layout)
            for layout in LAYOUTS
            for name, measure in measures.items()
        },
    )
