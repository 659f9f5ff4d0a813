"""The loop: learns, resumes to the same weights, saves before it stops, and refuses what cannot work."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import CheckpointError, DataError, SpecError, TrainingError
from foretell.model.checkpoint import load, read_tensors
from foretell.objective.objective import ObjectiveConfig
from foretell.spec import ActionSpec, Channel, Episode, Spec
from foretell.training import TrainConfig, TrainRecord, train
from foretell.training.log import read_log
from foretell.training.practice import Practice
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit
from tests.training.samples import SMALL, SPEC, STILL, write_store

TIMES = ("seconds", "frames_per_second")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(autouse=True)
def one_thread():
    """As a process that is told OMP_NUM_THREADS=1: sums of two threads differ in their last bits from those of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Everything that training changes."""
    return read_tensors(run / "resume/state.safetensors")[0]


def same(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def curve(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_log(run / "log.jsonl")]


def interrupted(store: EpisodeStore, out: Path, config: TrainConfig) -> None:
    """Train for three steps, then Ctrl-C."""

    def interrupt(step, record):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(store, out, config, on_step=interrupt)


def with_objective(**changes) -> TrainConfig:
    return dataclasses.replace(SMALL, objective=dataclasses.replace(SMALL.objective, **changes))


def test_a_run_holds_model_record_and_log(store, tmp_path):
    seen = []
    out = tmp_path / "run"
    model = train(store, out, SMALL, on_step=lambda step, record: seen.append((step, record["loss"])))
    assert [s for s, _ in seen] == list(range(1, 9))
    loaded = load(out).model
    trained, kept = model.state_dict(), loaded.state_dict()
    assert trained.keys() == kept.keys()
    assert all(torch.equal(trained[name], kept[name]) for name in kept)
    record = TrainRecord.read(out)
    assert record.finished
    assert sorted(record.training + record.held_out) == list(range(len(store)))
    assert record.held_out
    assert (record.config, record.fingerprint) == (SMALL, store.fingerprint())
    assert record.frames_per_second > 0
    log = read_log(out / "log.jsonl")
    assert [r["step"] for r in log] == list(range(1, 9))
    assert [r["loss"] for r in log] == pytest.approx([loss for _, loss in seen])
    assert {"prediction", "sigreg", "inverse", "spread", "learning_rate", *TIMES} <= log[0].keys()


def test_it_learns(store, tmp_path):
    train(store, tmp_path / "run", dataclasses.replace(SMALL, steps=150, learning_rate=0.01, log_steps=10))
    log = read_log(tmp_path / "run/log.jsonl")
    last = {name: sum(r[name] for r in log[-4:]) / 4 for name in ("inverse", "sigreg", "spread")}
    # Two actions of variance 1 make up a latent step: from their sum alone, half of each can be told.
    assert last["inverse"] < 0.75 * log[0]["inverse"]
    assert last["sigreg"] < 0.75 * log[0]["sigreg"]
    assert last["spread"] > 0.5


def test_the_seed_decides(store, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(store, tmp_path / name, dataclasses.replace(SMALL, seed=seed))
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupted_run_comes_to_the_same_weights(store, tmp_path, ema):
    config = with_objective(ema=ema)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(store, whole, config)
    interrupted(store, cut, config)
    assert TrainRecord.read(cut).steps == 3
    assert not TrainRecord.read(cut).finished
    load(cut)
    # What a run that was killed between two checkpoints leaves: records beyond its state, and half a line.
    with (cut / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    train(store, cut, dataclasses.replace(config, log_steps=1, checkpoint_seconds=0.0), resume=True)
    assert same(whole, cut)
    assert curve(whole) == curve(cut)
    assert TrainRecord.read(cut).finished


def squares(path: Path, *, moving: bool = True) -> EpisodeStore:
    """A square that walks about in front of a wall, or stands still."""
    spec = Spec(
        observations=(Channel(name="camera", kind="image", shape=(16, 16, 3)),),
        action=ActionSpec(names=("right", "down"), low=(-1, -1), high=(1, 1)),
        hz=5,
    )
    with EpisodeWriter(path, spec) as writer:
        for index in range(6):
            rng = np.random.default_rng(index)
            actions = rng.integers(-1, 2, (11, 2))
            places = np.clip(np.cumsum(np.vstack([rng.integers(2, 11, (1, 2)), actions]), 0), 1, 12)
            places = places if moving else np.full_like(places, 5)
            camera = np.full((12, 16, 16, 3), 60, np.uint8)
            for picture, (x, y) in zip(camera, places, strict=True):
                picture[y : y + 3, x : x + 3] = (220, 40, 90)
            writer.append(Episode(observations={"camera": camera}, actions=actions.astype(np.float32)))
    return EpisodeStore(path)


def test_what_moves_is_found_anew_when_a_run_goes_on(tmp_path):
    config, store = with_objective(cutouts=1.0), squares(tmp_path / "store")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(store, whole, config)
    interrupted(store, cut, config)
    train(store, cut, config, resume=True)
    assert same(whole, cut)
    assert curve(whole) == curve(cut)
    assert "cutouts" in curve(whole)[0]


def test_pictures_in_which_nothing_moves_are_named(tmp_path):
    still = squares(tmp_path / "squares", moving=False)
    with pytest.raises(DataError, match="cutouts, channel camera: things that move"):
        train(still, tmp_path / "run", with_objective(cutouts=1.0))
    with pytest.raises(SpecError, match="one image channel"):
        train(write_store(tmp_path / "still", STILL), tmp_path / "run", with_objective(cutouts=1.0))


def test_a_run_begins_with_the_weights_and_normalisation_of_another(store, tmp_path):
    first = train(store, tmp_path / "first", SMALL)
    other = write_store(tmp_path / "other", episodes=4)
    still = dataclasses.replace(SMALL, steps=1, learning_rate=1e-12, weight_decay=0.0, seed=5)
    second = train(other, tmp_path / "second", still, init=tmp_path / "first")
    for name, value in second.state_dict().items():
        assert torch.allclose(value, first.state_dict()[name], atol=1e-9), name


def test_a_run_to_begin_with_must_fit(store, tmp_path):
    train(store, tmp_path / "first", SMALL)
    wider = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, width=20))
    with pytest.raises(SpecError, match="a model to begin with of sizes"):
        train(store, tmp_path / "wider", wider, init=tmp_path / "first")
    still = write_store(tmp_path / "still", STILL)
    with pytest.raises(SpecError, match="to begin with"):
        train(still, tmp_path / "other", SMALL, init=tmp_path / "first")
    with pytest.raises(CheckpointError, match="a run folder expected"):
        train(store, tmp_path / "none", SMALL, init=tmp_path / "nowhere")
    assert not any((tmp_path / n).exists() for n in ("wider", "other", "none"))


def test_refining_is_part_of_the_run_and_of_going_on_with_it(store, tmp_path):
    plain = train(store, tmp_path / "plain", SMALL)
    refined = train(store, tmp_path / "refined", dataclasses.replace(SMALL, refine=Refine(steps=3, batch=8, blocks=2)))
    for name, value in refined.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]) == (not name.startswith("predictor.")), name
    again = load(tmp_path / "refined").model
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in refined.state_dict().items())


def test_without_actions_the_predictor_is_refined_too_and_no_distance_is_learned(tmp_path):
    still = write_store(tmp_path / "still", STILL)
    plain = train(still, tmp_path / "plain", SMALL)
    refined = train(still, tmp_path / "refined", dataclasses.replace(SMALL, refine=Refine(steps=3, batch=8, blocks=2)))
    for name, value in refined.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]) == (not name.startswith("predictor.")), name
    assert not load(tmp_path / "refined").parts


def test_practice_is_part_of_the_run_and_of_going_on_with_it(store, tmp_path):
    practice = Practice(steps=2, batch=8, horizon=2, candidates=16, width=8, depth=1, weights=(1.0, 0.5), near=(2.0,))
    config = dataclasses.replace(SMALL, practice=practice, distance=DistanceFit(steps=0))
    train(store, tmp_path / "whole", config)
    made = load(tmp_path / "whole").parts
    assert made.keys() == {"actor_critic"}
    out = tmp_path / "stopped"
    interrupted(store, out, config)
    train(store, out, config, resume=True)
    again = load(out).parts["actor_critic"].state_dict()
    assert all(torch.equal(v, again[n]) for n, v in made["actor_critic"].state_dict().items())
    still = write_store(tmp_path / "still", STILL)
    train(still, tmp_path / "without", config)
    assert not load(tmp_path / "without").parts


def test_a_finished_run_is_returned_as_it_is(store, tmp_path):
    out = tmp_path / "run"
    train(store, out, SMALL)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    model = train(store, out, SMALL, resume=True)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert torch.equal(model.predictor.enter.weight, load(out).model.predictor.enter.weight)


def test_killed_at_the_last_save_a_run_still_finishes(store, tmp_path):
    out = tmp_path / "run"
    train(store, out, SMALL)
    note = json.loads((out / "train.json").read_text())
    (out / "train.json").write_text(json.dumps(note | {"steps": 4, "finished": False}))
    (out / "model.safetensors").unlink()
    train(store, out, SMALL, resume=True)
    assert TrainRecord.read(out).finished
    load(out)


def test_what_is_resumed_must_be_what_was_begun(store, tmp_path):
    out = tmp_path / "run"
    train(store, out, SMALL)
    changed = dataclasses.replace(SMALL, steps=9, model=dataclasses.replace(SMALL.model, latent=12))
    with pytest.raises(SpecError, match=r"model\.latent: 8 expected, got 12.*steps: 8 expected, got 9"):
        train(store, out, changed, resume=True)
    with pytest.raises(SpecError, match="with other episodes"):
        train(write_store(tmp_path / "other", episodes=5), out, SMALL, resume=True)
    with pytest.raises(DataError, match="exists; choose another --out"):
        train(store, out, SMALL)
    with pytest.raises(DataError, match="there is none"):
        train(store, tmp_path / "nowhere", SMALL, resume=True)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "gone", "other tensors"])
def test_damaged_state_is_refused(store, tmp_path, damage):
    out = tmp_path / "run"
    train(store, out, dataclasses.replace(SMALL, steps=2))
    note = json.loads((out / "train.json").read_text())
    (out / "train.json").write_text(json.dumps(note | {"steps": 1, "finished": False}))
    state = out / "resume/state.safetensors"
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:-50])
    elif damage == "foreign":
        state.write_bytes(b"\x80\x04.")
    elif damage == "gone":
        state.unlink()
    else:
        shutil.copy(out / "model.safetensors", state)
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        train(store, out, dataclasses.replace(SMALL, steps=2), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(store, tmp_path, monkeypatch):
    out = tmp_path / "run"
    from foretell.objective.objective import Objective

    forward = Objective.forward

    def broken(self, batch, generator, step):
        found = forward(self, batch, generator, step)
        return found if step < 5 else {**found, "loss": found["loss"] * math.nan}

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(TrainingError, match=r"not finite at step 6; lower learning_rate"):
        train(store, out, dataclasses.replace(SMALL, checkpoint_steps=4))
    assert TrainRecord.read(out).steps == 4
    assert all(torch.isfinite(v).all() for v in load(out).model.state_dict().values())


def test_collapse_stops_the_run(store, tmp_path):
    """With nothing that keeps latents apart, predicting is easiest where all are the same."""
    out = tmp_path / "run"
    config = with_objective(sigreg=0.0, inverse=0.0, settle=0, ramp=1)
    config = dataclasses.replace(config, steps=300, learning_rate=0.02, weight_decay=0.3, log_steps=10)
    with pytest.raises(TrainingError, match=r"collapsed.*raise sigreg \(now 0\)"):
        train(store, out, config)
    log = read_log(out / "log.jsonl")
    assert log[-1]["spread"] < 0.05
    assert 100 < log[-1]["step"] < 300
    load(out)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("spec", [STILL, SPEC])
@pytest.mark.parametrize("history", [1, 2])
def test_without_actions_and_with_gaps(tmp_path, spec, gaps, history):
    store = write_store(tmp_path / "store", spec, gaps=gaps)
    config = dataclasses.replace(SMALL, steps=4, model=dataclasses.replace(SMALL.model, history=history))
    train(store, tmp_path / "run", config)
    log = read_log(tmp_path / "run/log.jsonl")
    assert len(log) == 4
    assert ("inverse" in log[0]) == (spec is SPEC)
    assert all(math.isfinite(r["loss"]) for r in log)


def test_low_precision_stays_close(store, tmp_path):
    for precision in ("float32", "bfloat16"):
        train(store, tmp_path / precision, dataclasses.replace(SMALL, precision=precision))
    one, other = ([r["loss"] for r in curve(tmp_path / p)] for p in ("float32", "bfloat16"))
    assert one != other
    assert one == pytest.approx(other, rel=0.05)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"length": 1}, "length must be a whole number of at least 2"),
        ({"batch": 7}, "an even batch expected, got 7"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
        ({"holdout": 1.0}, r"holdout must be in \[0, 1\)"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"device": "abacus"}, "device 'abacus': auto, cpu, cuda"),
    ],
)
def test_settings_out_of_range_are_refused(store, tmp_path, change, match):
    with pytest.raises(SpecError, match=match):
        train(store, tmp_path / "run", dataclasses.replace(SMALL, **change))
    assert not (tmp_path / "run").exists()


def test_windows_longer_than_episodes_are_refused(store, tmp_path):
    with pytest.raises(DataError, match="needs episodes of at least 59 steps"):
        train(store, tmp_path / "run", dataclasses.replace(SMALL, length=30))
    assert not (tmp_path / "run").exists()


def test_settings_survive_json():
    config = with_objective(ema=0.5)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(SpecError, match="not a configuration"):
        TrainConfig.from_json({**config.to_json(), "colour": 1})
    assert config.differences(SMALL) == ["objective.ema: 0.5 expected, got 0.0"]
    assert SMALL.differences(dataclasses.replace(SMALL, log_steps=3)) == []
    assert TrainConfig(objective=ObjectiveConfig(spread="state"), batch=3).group == 1
    practised = dataclasses.replace(SMALL, practice=Practice(steps=3, weights=(1.0, 0.5)))
    assert TrainConfig.from_json(json.loads(json.dumps(practised.to_json()))) == practised
    earlier = {name: value for name, value in SMALL.to_json().items() if name != "practice"}
    assert TrainConfig.from_json(earlier) == SMALL


SCRIPT = """
import sys
from dataclasses import replace
from tests.training.samples import SMALL
from foretell.training import train
train(*sys.argv[1:], replace(SMALL, steps=150, checkpoint_steps=5))
"""


def test_kill_9_loses_no_more_than_the_steps_since_the_checkpoint(store, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, store.path, killed], env=environment, cwd=root)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if (killed / "train.json").exists() and TrainRecord.read(killed).steps >= 5:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 5 <= TrainRecord.read(killed).steps < 150
    assert load(killed).model.spec == store.spec
    config = dataclasses.replace(SMALL, steps=150, checkpoint_steps=5)
    train(store, killed, config, resume=True)
    train(store, whole, config)
    assert same(whole, killed)
    assert curve(whole) == curve(killed)
