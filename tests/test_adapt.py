"""Adapting: goes on from what a run knows, by its own objective, and leaves it as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foretell.adapt import Adapt, _foretold, adapt
from foretell.errors import CheckpointError, DataError, SpecError
from foretell.model.actor_critic import ActorCritic, ActorCriticConfig
from foretell.model.checkpoint import load, save
from foretell.training import TrainRecord, train
from tests.end_to_end.runs import content
from tests.training.samples import SMALL, STILL, write_store

QUICK = Adapt(steps=2, batch=8, refine=2, distance=2, holdout=0.25, better=None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = replace(SMALL, objective=replace(SMALL.objective, inverse=0.5, straight=0.1))
    train(write_store(folder / "before", episodes=6), folder / "run", config)
    return folder / "run"


def test_it_goes_on_from_the_run_and_leaves_it_as_it_was(run: Path, tmp_path: Path) -> None:
    before = content(run)
    now = write_store(tmp_path / "now", episodes=4)
    adapt(run, now, tmp_path / "adapted", QUICK)
    assert content(run) == before
    old, new = load(run), load(tmp_path / "adapted")
    mine, theirs = dict(new.model.named_parameters()), dict(old.model.named_parameters())
    apart = max(float((mine[k] - theirs[k]).detach().abs().max()) for k in mine)
    # Two steps away, and not begun anew.
    assert 0 < apart < 0.02
    buffers = dict(old.model.named_buffers())
    assert all(torch.equal(x, buffers[k]) for k, x in new.model.named_buffers())
    assert new.parts.keys() == old.parts.keys() == {"temporal_distance"}
    record = TrainRecord.read(tmp_path / "adapted")
    assert (record.config.objective.inverse, record.config.objective.straight) == (0.5, 0.1)
    assert record.config.objective.settle == 0
    assert len(record.held_out) == 1


def test_a_checkpoint_without_its_record_is_adapted_by_the_objective_given(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((run / name).read_bytes())
    now = write_store(tmp_path / "now", episodes=4)
    adapt(bare, now, tmp_path / "adapted", QUICK, objective=SMALL.objective)
    assert TrainRecord.read(tmp_path / "adapted").config.objective.slices == 16


def test_where_it_is_no_better_for_it_the_model_is_left_as_it_was(run: Path, tmp_path: Path) -> None:
    """Two steps teach nothing."""
    now = write_store(tmp_path / "now", episodes=4)
    made = adapt(run, now, tmp_path / "adapted", replace(QUICK, better=0.5))
    assert made.kind == "as it was"
    assert made.errors.keys() == {"as it was", "predictor", "all"}
    assert min(made.errors.values()) > 0.5 * made.errors["as it was"] > 0
    old, new = load(run), load(tmp_path / "adapted")
    for one, other in zip(old.model.state_dict().values(), new.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert new.parts.keys() == old.parts.keys()
    assert ": as it was." in (tmp_path / "adapted" / "card.md").read_text()
    other = adapt(run, now, tmp_path / "other", QUICK)
    assert other.kind == "all"
    assert other.errors == {"all": made.errors["all"]}


def test_where_the_predictor_is_what_was_wrong_it_alone_is_adapted(run: Path, tmp_path: Path) -> None:
    """One that foretells leaps learns not to; two steps of the whole do not cure that."""
    spoiled, found = tmp_path / "spoiled", load(run)
    torch.nn.init.constant_(found.model.predictor.leave[-1].bias, 0.3)
    spoiled.mkdir()
    for name in ("train.json", "card.md"):
        (spoiled / name).write_bytes((run / name).read_bytes())
    save(spoiled, found.model, dict(found.parts))
    made = adapt(
        spoiled, write_store(tmp_path / "now", episodes=4), tmp_path / "out", replace(QUICK, better=0.1, refine=100)
    )
    assert made.kind == "predictor"
    assert made.errors["predictor"] < 0.5 * made.errors["as it was"]
    new = load(tmp_path / "out")
    before, after = found.model.state_dict(), new.model.state_dict()
    assert all(torch.equal(before[k], after[k]) == (not k.startswith("predictor.")) for k in before if "norm" not in k)
    assert new.parts.keys() == {"temporal_distance"}


def test_errors_are_shares_of_no_change(run: Path, tmp_path: Path) -> None:
    """A model that foretells no change is off by all of it."""
    still = load(run).model
    torch.nn.init.zeros_(still.predictor.leave[-1].weight)
    torch.nn.init.zeros_(still.predictor.leave[-1].bias)
    assert _foretold(still, write_store(tmp_path / "now", episodes=2), [0, 1]) == pytest.approx(1.0)


def test_what_does_not_fit_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        adapt(tmp_path / "nowhere", write_store(tmp_path / "a", episodes=3), tmp_path / "out", QUICK)
    with pytest.raises(SpecError, match="camera"):
        adapt(run, write_store(tmp_path / "b", STILL, episodes=3), tmp_path / "out", QUICK)
    with pytest.raises(SpecError, match="at least 2 episodes"):
        adapt(run, write_store(tmp_path / "c", episodes=1), tmp_path / "out", QUICK)
    with pytest.raises(DataError, match="exists"):
        adapt(run, write_store(tmp_path / "d", episodes=3), run, QUICK)
    with pytest.raises(SpecError, match="steps"):
        Adapt(steps=0)
    with pytest.raises(SpecError, match="better"):
        Adapt(better=1.0)
    assert not (tmp_path / "out").exists()


def test_who_has_practised_practises_on(run: Path, tmp_path: Path) -> None:
    practised, found = tmp_path / "practised", load(run)
    heads = ActorCritic(ActorCriticConfig(latent=8, action=4, width=8, depth=1, scale=0.7, weights=(2.0,)))
    practised.mkdir()
    for name in ("train.json", "card.md"):
        (practised / name).write_bytes((run / name).read_bytes())
    save(practised, found.model, {**found.parts, "actor_critic": heads})
    now = write_store(tmp_path / "now", episodes=4)
    parts = {}
    for steps in (0, 1):
        adapt(practised, now, tmp_path / f"after{steps}", replace(QUICK, practice=steps))
        parts[steps] = load(tmp_path / f"after{steps}").parts
        assert parts[steps].keys() == {"temporal_distance", "actor_critic"}
        assert parts[steps]["actor_critic"].to_json() == heads.to_json()
    before, after = (dict(parts[steps]["actor_critic"].named_parameters()) for steps in (0, 1))
    assert all(torch.equal(v, before[k]) for k, v in heads.named_parameters())
    assert any(not torch.equal(v, after[k]) for k, v in heads.named_parameters())
