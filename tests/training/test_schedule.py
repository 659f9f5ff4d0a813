"""The learning rate against its formula; the split stays put when episodes are added."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import DataError
from foretell.training.schedule import learning_rate, split


def test_warm_up_then_cosine():
    rates = [learning_rate(s, steps=110, warmup=10, peak=2.0) for s in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (s + 1) for s in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[35] == pytest.approx(1 + math.cos(math.pi / 4))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) > 0
    assert learning_rate(0, steps=1, warmup=0, peak=1.0) == 1.0


@given(st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 2**40))
def test_every_episode_is_in_one_part(episodes, share, seed):
    training, held_out = split([""] * episodes, share, seed)
    assert sorted(training + held_out) == list(range(episodes))
    assert training == sorted(training)
    assert training
    assert bool(held_out) == (share > 0 and episodes > 1)


def test_about_the_share_is_held_out_and_added_episodes_move_no_other():
    few, many = split([""] * 1000, 0.1, 5)[1], split([""] * 2000, 0.1, 5)[1]
    assert 70 <= len(few) <= 130
    assert [i for i in many if i < 1000] == few
    assert few != split([""] * 1000, 0.1, 6)[1]


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=40), st.floats(0, 0.99), st.integers(0, 99))
def test_a_group_is_in_one_part(groups, share, seed):
    training, held_out = split(groups, share, seed)
    assert sorted(training + held_out) == list(range(len(groups)))
    assert not {groups[i] for i in training} & {groups[i] for i in held_out} - {""}
    units = len(set(groups) - {""}) + groups.count("")
    assert bool(held_out) == (share > 0 and units > 1)
    assert training


def test_no_episodes_are_refused():
    with pytest.raises(DataError, match="no episodes"):
        split([], 0.1, 0)
