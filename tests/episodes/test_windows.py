"""Windows are the episodes' own values, wherever they come from, and their order is a function of (seed, step)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretell.episodes.store import EpisodeStore
from foretell.episodes.windows import Windows, _Gather
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import DataError, SpecError
from foretell.spec import Channel, Episode, Spec
from tests.episodes.samples import SPEC, episode

LENGTHS = (12, 5, 9, 1, 7)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "store"
    with EpisodeWriter(path, SPEC) as writer:
        for i, steps in enumerate(LENGTHS):
            writer.append(episode(i, steps, gaps=i == 2))
    return EpisodeStore(path)


@pytest.mark.parametrize(("length", "block"), [(1, 1), (4, 1), (3, 2), (2, 4), (12, 1)])
def test_windows_are_the_episodes_values(store, length, block):
    windows = Windows(store, length=length, block=block)
    span = (length - 1) * block + 1
    assert len(windows) == sum(max(0, n - span + 1) for n in LENGTHS)
    indices = np.random.default_rng(0).permutation(len(windows))
    batch = windows.batch(indices)
    episodes, starts = windows.locate(indices)
    assert len(set(zip(episodes.tolist(), starts.tolist(), strict=True))) == len(windows)
    assert batch.actions.shape == (len(windows), length - 1, block * 2)
    for k, (e, start) in enumerate(zip(episodes, starts, strict=True)):
        made = episode(int(e), LENGTHS[e], gaps=e == 2)
        steps = start + np.arange(length) * block
        for channel in SPEC.channels:
            values = made.observations[channel.name][steps]
            mask = made.valid.get(channel.name)
            shape = (length,) if channel.kind == "image" else (length, channel.shape[0])
            mask = np.ones(shape, np.bool_) if mask is None else mask[steps]
            values = np.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values, 0)
            expected = values if channel.kind == "image" else values.astype(np.float32)
            assert torch.equal(batch.observations[channel.name][k], torch.from_numpy(expected))
            assert torch.equal(batch.valid[channel.name][k], torch.from_numpy(mask))
        taken = made.actions[start : start + span - 1].reshape(length - 1, block * 2)
        assert torch.equal(batch.actions[k], torch.from_numpy(taken))


def test_only_the_chosen_episodes_are_used(store):
    windows = Windows(store, length=5, episodes=[4, 2, 3])
    assert len(windows) == 3 + 5
    found, _ = windows.locate(np.arange(len(windows)))
    assert found.tolist() == [4] * 3 + [2] * 5
    with pytest.raises(DataError, match="episodes 0 to 4 expected, got 9"):
        Windows(store, length=2, episodes=[9])


def test_windows_longer_than_every_episode_are_refused(store):
    with pytest.raises(DataError, match="needs episodes of at least 13 steps; the longest of 5 has 12"):
        Windows(store, length=4, block=4)
    with pytest.raises(SpecError, match="at least 1"):
        Windows(store, length=0)


def test_indices_beyond_are_refused(store):
    windows = Windows(store, length=2)
    for wrong in (-1, len(windows)):
        with pytest.raises(IndexError, match="expected, got"):
            windows.batch(np.array([0, wrong]))
    assert len(windows.batch(np.array([], np.int64))) == 0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 40), seed=st.integers(0, 2**40), step=st.integers(0, 10**6), ranks=st.integers(1, 4))
def test_ranks_take_slices_of_one_batch(store, size, seed, step, ranks):
    windows = Windows(store, length=2)
    size = max(size, ranks)
    whole = windows.indices(step, size, seed=seed)
    parts = [windows.indices(step, size, seed=seed, rank=r, ranks=ranks) for r in range(ranks)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(whole, windows.indices(step, size, seed=seed))
    assert whole.min() >= 0
    assert whole.max() < len(windows)


@pytest.mark.parametrize("length", [1, 2, 3, 9, 12])
def test_every_window_comes_once_a_round(store, length):
    windows = Windows(store, length=length)
    rounds, size = 6, 3
    steps = rounds * len(windows) // size
    seen = np.concatenate([windows.indices(s, size, seed=5) for s in range(steps + 1)])[: rounds * len(windows)]
    orders = seen.reshape(rounds, len(windows))
    assert (np.sort(orders, 1) == np.arange(len(windows))).all()
    if len(windows) > 8:
        assert len({tuple(order) for order in orders}) == rounds
        assert not np.array_equal(windows.indices(0, 8, seed=1), windows.indices(0, 8, seed=2))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.integers(4, 12),
    group=st.integers(1, 4),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    ranks=st.integers(1, 4),
)
def test_groups_come_from_one_episode_and_stay_whole(store, groups, group, seed, step, ranks):
    windows = Windows(store, length=2)
    size = groups * group
    whole = windows.indices(step, size, seed=seed, group=group)
    parts = [windows.indices(step, size, seed=seed, rank=r, ranks=ranks, group=group) for r in range(ranks)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert all(len(part) % group == 0 for part in parts)
    episodes, _ = windows.locate(whole)
    assert (episodes.reshape(-1, group) == episodes.reshape(-1, group)[:, :1]).all()
    assert np.array_equal(whole[::group], windows.indices(step, groups, seed=seed))


def test_companions_are_any_window_of_the_episode(store):
    windows = Windows(store, length=5, episodes=[1, 4])
    pairs = np.stack([windows.indices(s, 2, seed=3, group=2) for s in range(2000)])
    per_pair = Counter(map(tuple, pairs.tolist()))
    sizes = Counter(windows.locate(np.arange(len(windows)))[0].tolist())
    assert len(per_pair) == sum(n * n for n in sizes.values())
    with pytest.raises(SpecError, match="groups of 2"):
        windows.indices(0, 3, seed=0, group=2)


def test_orders_are_even(store):
    windows = Windows(store, length=8)
    count = len(windows)
    first = Counter(int(windows.indices(0, 1, seed=seed)[0]) for seed in range(600 * count))
    expected = 600.0
    chi = sum((first[i] - expected) ** 2 / expected for i in range(count))
    assert chi < count - 1 + 5 * np.sqrt(2 * (count - 1))


def test_a_batch_that_is_kept_is_never_written_over():
    rows = np.arange(300 * 40_000, dtype=np.uint8).reshape(300, 40_000) % 251
    gather = _Gather(rows, 4, 1)
    kept = []
    for k in range(12):
        out = gather(torch.arange(20) + k)
        kept.append((k, out[3:5].view(-1) if k % 3 == 0 else out))
        del out
    for k, out in kept:
        expected = np.stack([rows[s : s + 4] for s in np.arange(20) + k])
        assert np.array_equal(out.numpy().ravel(), (expected[3:5] if k % 3 == 0 else expected).ravel())
    pointers = {gather(torch.arange(20)).data_ptr() for _ in range(8)}
    assert len(pointers) <= 4


def test_the_cache_is_built_once_anew_when_stale_and_refused_when_damaged(tmp_path):
    path, folder = tmp_path / "store", tmp_path / "cache"
    spec = Spec(observations=(Channel(name="x", kind="vector", shape=(1,)),))

    def write(value: float) -> EpisodeStore:
        shutil.rmtree(path, ignore_errors=True)
        with EpisodeWriter(path, spec) as writer:
            writer.append(Episode(observations={"x": np.full((4, 1), value)}, actions=np.zeros((3, 0))))
        return EpisodeStore(path)

    windows = Windows(write(1.0), length=2, cache=folder)
    built = (windows.cache.path / "x.bin").stat().st_mtime_ns
    again = Windows(write(1.0), length=2, cache=folder)
    assert (again.cache.path / "x.bin").stat().st_mtime_ns == built
    changed = Windows(write(2.0), length=2, cache=folder)
    assert changed.batch(np.array([0])).observations["x"].unique().tolist() == [2.0]
    (changed.cache.path / "x.bin").write_bytes(b"1234")
    with pytest.raises(DataError, match="remove"):
        Windows(EpisodeStore(path), length=2, cache=folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another --cache"):
        Windows(EpisodeStore(path), length=2, cache=tmp_path / "file")
    assert not list(folder.glob(".building*"))


def test_processes_build_one_cache_together(tmp_path):
    with EpisodeWriter(tmp_path / "store", SPEC) as writer:
        for i in range(4):
            writer.append(episode(i))
    script = (
        "import sys; from foretell.episodes.store import EpisodeStore; from foretell.episodes.windows import Windows;"
        "print(len(Windows(EpisodeStore(sys.argv[1]), length=2)))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    assert [p.communicate()[0].strip() for p in running] == ["44", "44"]
    assert len([p for p in (tmp_path / "store" / ".cache").iterdir() if p.is_dir()]) == 1
    assert len(EpisodeStore(Path(tmp_path / "store"))) == 4
