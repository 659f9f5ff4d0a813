"""Gains: windows scaled as wholes, named together scaled together, the same however many ranks share a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.episodes.batch import Batch
from foretell.errors import SpecError
from foretell.training import TrainConfig, train
from foretell.training.gains import Gain, check, parse, scaled
from tests.training.samples import SMALL, SPEC, write_store

WINDOWS, STEPS, BLOCK = 8, 3, 2


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(WINDOWS, STEPS, 2, generator=generator)
    valid = torch.rand(WINDOWS, STEPS, 2, generator=generator) < 0.7
    actions = torch.randn(WINDOWS, STEPS - 1, BLOCK * 2, generator=generator)
    return Batch({"state": state.masked_fill(~valid, 0)}, {"state": valid}, actions)


def drawn(text: str, **kwargs: int) -> Batch:
    return scaled(batch(), [parse(text)], SPEC, torch.Generator().manual_seed(2), **kwargs)


def test_what_is_named_together_is_scaled_together_by_one_gain_for_each_window() -> None:
    before, after = batch(), drawn("state+turn:0.5")
    known = before.valid["state"]
    ratio = (after.observations["state"] / before.observations["state"])[known]
    window = torch.arange(WINDOWS)[:, None, None].expand_as(known)[known]
    gains = torch.stack([ratio[window == w].mean() for w in range(WINDOWS)])
    assert torch.allclose(ratio, gains[window], rtol=1e-4)
    assert not after.observations["state"][~known].any()
    turned, pushed = ((after.actions / before.actions)[..., i::2] for i in (1, 0))
    assert torch.allclose(turned, gains[:, None, None].expand_as(turned), rtol=1e-4)
    assert torch.equal(pushed, torch.ones_like(pushed))
    assert gains.log().std() == pytest.approx(0.5, rel=0.6)


def test_what_gains_are_about_stays_as_it_is() -> None:
    before, after = batch().observations["state"], drawn("state:0.5@0.25").observations["state"]
    known = batch().valid["state"]
    ratio = ((after - 0.25) / (before - 0.25))[known]
    assert bool((ratio > 0).all())
    at = Batch({"state": torch.full((WINDOWS, STEPS, 2), 0.25)}, {}, batch().actions)
    same = scaled(at, [Gain(("state",), 0.5, 0.25)], SPEC, torch.Generator().manual_seed(2))
    assert torch.allclose(same.observations["state"], at.observations["state"])


@settings(max_examples=20, deadline=None)
@given(ranks=st.sampled_from([1, 2, 4]), group=st.sampled_from([1, 2]))
def test_ranks_draw_the_gains_of_one(ranks: int, group: int) -> None:
    whole = drawn("push:0.3", group=group).actions
    share = WINDOWS // ranks
    some = batch()
    parts = []
    for rank in range(ranks):
        part = Batch({}, {}, some.actions[rank * share : (rank + 1) * share])
        generator = torch.Generator().manual_seed(2)
        parts.append(scaled(part, [parse("push:0.3")], SPEC, generator, rank=rank, ranks=ranks, group=group).actions)
    assert torch.equal(torch.cat(parts), whole)
    if group == 2:
        gains = (whole / some.actions)[:, 0, 0]
        assert torch.allclose(gains[0::2], gains[1::2])


@pytest.mark.parametrize("text", ["", "state", "state:", "state:x", "state:-1", "+a:0.3", "state:0.3@x", "state:inf"])
def test_what_is_no_gain_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="gains: NAME"):
        replace(SMALL, gains=(text,))


def test_names_that_are_none_and_names_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gains: vector channels and actions are .* got 'camera'"):
        check([parse("camera:0.1")], SPEC)
    with pytest.raises(SpecError, match="push is scaled twice"):
        check([parse("push:0.1"), parse("push+state:0.1")], SPEC)
    with pytest.raises(SpecError, match="got 'nothing'"):
        train(write_store(tmp_path / "store"), tmp_path / "run", replace(SMALL, gains=("nothing:0.3",)))


def test_a_run_with_gains_learns_otherwise_and_says_so(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", gaps=True)
    config = replace(SMALL, gains=("state+push:0.5",))
    one, other = train(store, tmp_path / "a", config), train(store, tmp_path / "b", SMALL)
    again = train(store, tmp_path / "c", config)
    weights = [m.predictor.enter.weight for m in (one, other, again)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert TrainConfig.from_json(config.to_json()) == config
