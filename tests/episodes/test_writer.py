"""Recording survives kill -9 and full disks, and refuses what does not fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import DataError, SpecError
from foretell.spec import Channel, Episode, Spec
from tests.episodes.samples import SPEC, episode, same

ROOT = Path(__file__).resolve().parents[2]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("images", ["png", "mp4"])
def test_kill_loses_at_most_the_episode_in_flight(tmp_path, images):
    script = """
        import sys
        from foretell.episodes.writer import EpisodeWriter
        from tests.episodes.samples import SPEC, episode
        with EpisodeWriter(sys.argv[1], SPEC, images=sys.argv[2], file_mb=0.05) as writer:
            for i in range(100_000):
                writer.append(episode(i, gaps=i % 2 == 1))
                print(i, flush=True)
    """
    rng = np.random.default_rng()
    for attempt in range(5):
        path = tmp_path / str(attempt)
        process = start(script, path, images)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.communicate()[0].split()]
        done = (max(said) if said else 0) + 1
        store = EpisodeStore(path)
        assert done <= len(store) <= done + 1
        for i in {0, len(store) // 2, len(store) - 1}:
            assert same(store[i], episode(i, gaps=i % 2 == 1), lossy=images == "mp4")


@pytest.mark.parametrize("lost", range(1, 400, 57))
def test_a_torn_journal_loses_its_last_episode_only(tmp_path, lost):
    writer = EpisodeWriter(tmp_path / "store", SPEC)
    for i in range(3):
        writer.append(episode(i))
    journal = tmp_path / "store" / "recording.journal"
    journal.write_bytes(journal.read_bytes()[:-lost])
    store = EpisodeStore(tmp_path / "store")
    assert len(store) == 2
    assert same(store[1], episode(1))


def test_an_episode_that_a_power_cut_emptied_is_dropped(tmp_path):
    writer = EpisodeWriter(tmp_path / "store", SPEC)
    for i in range(3):
        writer.append(episode(i))
    journal = tmp_path / "store" / "recording.journal"
    content = journal.read_bytes()
    journal.write_bytes(content[:-300] + bytes(300))
    assert len(EpisodeStore(tmp_path / "store")) == 2
    middle = bytearray(content)
    middle[:4] = b"oops"
    journal.write_bytes(middle)
    with pytest.raises(DataError, match=r"recording\.journal: damaged at byte 0"):
        EpisodeStore(tmp_path / "store")


def test_a_full_disk_keeps_what_was_recorded(tmp_path):
    script = """
        import resource, sys
        from foretell.episodes.writer import EpisodeWriter
        from foretell.errors import DataError
        from tests.episodes.samples import SPEC, episode
        writer = EpisodeWriter(sys.argv[1], SPEC)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        done = 0
        try:
            while True:
                writer.append(episode(done))
                done += 1
        except DataError as error:
            print(done, error)
        try:
            writer.append(episode(done))
        except DataError as error:
            print("again", error)
        try:
            writer.close()
        except DataError as error:
            print("close", error)
    """
    out, error = start(script, tmp_path / "store").communicate()
    first, again, *_ = out.splitlines()
    done = int(first.split()[0])
    assert done > 3, error
    assert f"episode {done}: cannot be written: File too large; the {done} before it are kept" in first
    assert again.startswith("again")
    store = EpisodeStore(tmp_path / "store")
    assert len(store) == done
    assert all(same(came, episode(i)) for i, came in enumerate(store))


def test_a_disk_too_full_to_gather_keeps_the_journal(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    writer = EpisodeWriter(tmp_path / "store", SPEC)
    for i in range(3):
        writer.append(episode(i))
    monkeypatch.setattr("foretell.episodes.writer.pq.ParquetWriter", full)
    with pytest.raises(DataError, match="No space left on device; the 3 episodes recorded are kept"):
        writer.close()
    store = EpisodeStore(tmp_path / "store")
    assert all(same(store[i], episode(i)) for i in range(3))


def test_an_error_in_the_loop_closes_the_store(tmp_path):
    with pytest.raises(RuntimeError), EpisodeWriter(tmp_path / "store", SPEC) as writer:  # noqa: PT012
        writer.append(episode(0))
        raise RuntimeError
    assert len(EpisodeStore(tmp_path / "store")) == 1
    assert not (tmp_path / "store" / "recording.journal").exists()
    with pytest.raises(DataError, match="closed"):
        writer.append(episode(1))


def test_existing_and_unwritable_folders_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(DataError, match="exists and is not empty"):
        EpisodeWriter(tmp_path / "full", SPEC)
    assert (tmp_path / "full" / "note").read_text() == "mine"
    with pytest.raises(DataError, match="exists and is not empty"):
        EpisodeWriter(tmp_path / "full" / "note", SPEC)
    with pytest.raises(DataError, match="cannot be written"):
        EpisodeWriter(tmp_path / "full" / "note" / "store", SPEC)
    with pytest.raises(DataError, match="JSON"):
        EpisodeWriter(tmp_path / "other", SPEC, metadata={"x": object()})
    assert not (tmp_path / "other").exists()


def test_episodes_that_do_not_fit_leave_the_store_as_it_was(tmp_path):
    wrong = Spec(observations=(Channel(name="camera", kind="image", shape=(16, 24, 3)),))
    with EpisodeWriter(tmp_path / "store", SPEC) as writer:
        writer.append(episode(0))
        with pytest.raises(SpecError, match="episode 1: channel state is missing"):
            writer.append(episode(1, spec=wrong))
        with pytest.raises(SpecError, match="times must be given for all episodes or for none"):
            writer.append(episode(1, times=False))
        writer.append(episode(2))
    store = EpisodeStore(tmp_path / "store")
    assert len(store) == 2
    assert same(store[1], episode(2))


def test_types_are_widened_only_where_no_value_changes(tmp_path):
    spec = Spec(observations=(Channel(name="x", kind="vector", shape=(1,)),))

    def one(values: object) -> Episode:
        column = np.asarray(values)[:, None]
        return Episode(observations={"x": column}, actions=np.zeros((len(column) - 1, 0)))

    with EpisodeWriter(tmp_path / "store", spec) as writer:
        writer.append(one(np.array([1.5, 2.5])))
        writer.append(one(np.array([1.25, 3], np.float32)))
        writer.append(one(np.array([3, 4])))
        with pytest.raises(SpecError, match="must keep the type of the first episode, double, got int64"):
            writer.append(one(np.array([2**53 + 1, 4])))
    store = EpisodeStore(tmp_path / "store")
    assert [e.observations["x"][:, 0].tolist() for e in store] == [[1.5, 2.5], [1.25, 3.0], [3.0, 4.0]]


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    spec = Spec(observations=(Channel(name="camera", kind="image", shape=(8, 8, 4)),))
    with pytest.raises(SpecError, match="mp4 holds 1 or 3 colour planes, got 4"):
        EpisodeWriter(tmp_path / "a", spec, images="mp4")
    twins = Spec(observations=tuple(Channel(name=n, kind="vector", shape=(1,)) for n in ("x", "observation.x")))
    with pytest.raises(SpecError, match="told apart"):
        EpisodeWriter(tmp_path / "b", twins)
    assert not (tmp_path / "a").exists()
