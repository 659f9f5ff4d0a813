"""What an encoder that looks far back takes: the last dozen steps, and means over stretches before them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.model.encoders import APART, VectorEncoder, stretches


@given(look=st.integers(1, 2000))
def test_stretches_cover_each_step_once_and_grow(look: int) -> None:
    parts = stretches(look)
    covered = [step for near, far in parts for step in range(near, far)]
    assert covered == list(range(look))
    lengths = [far - near for near, far in parts]
    assert all(n == 1 for n in lengths[:APART])
    assert all(n <= -(-near // 4) for n, (near, _) in zip(lengths[APART:], parts[APART:], strict=True))
    assert len(parts) <= APART + 4 * max(0, np.log2(max(look, 1)))


@settings(max_examples=30, deadline=None)
@given(look=st.integers(APART + 1, 60), seed=st.integers(0, 99))
def test_means_are_those_of_what_is_valid(look: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=(5, 2, look)).astype(np.float32), rng.random((5, 2, look)) < 0.6
    encoder = VectorEncoder(2, 8, look)
    means, share = encoder._means(torch.from_numpy(values), torch.from_numpy(valid))
    for k, (near, far) in enumerate(stretches(look)):
        back = slice(look - far, look - near)
        there = valid[..., back]
        assert share[..., k].numpy() == pytest.approx(there.mean(-1), abs=1e-6)
        sums = np.where(there, values[..., back], 0).sum(-1)
        assert means[..., k].numpy() == pytest.approx(sums / np.maximum(there.sum(-1), 1), abs=1e-5)


def test_each_mean_counts_in_units_of_its_own_spread() -> None:
    """What comes seldom has means of a few hundredths over long stretches, and is not silenced for that."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.where(rng.random((4000, 1, 300)) < 0.01, 10.0, 0.0).astype(np.float32))
    valid = torch.ones_like(values, dtype=torch.bool)
    encoder = VectorEncoder(1, 8, 300)
    encoder.fit(values, valid)
    means, _ = encoder._means(values, valid)
    scaled = means / encoder.get_buffer("spread")
    assert scaled.square().mean(0).sqrt().numpy() == pytest.approx(1.0, abs=1e-4)
    assert means[..., -1].square().mean().sqrt() < 0.4
    # What is not valid changes nothing.
    hidden = values.clone()
    hidden[:, :, 100:] = 1e6
    mask = valid.clone()
    mask[:, :, 100:] = False
    assert torch.equal(encoder(hidden, mask), encoder(values.masked_fill(~mask, 0), mask))
