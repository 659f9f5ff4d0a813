"""Episode stores: what goes in comes out, and what is damaged is refused with one line that names the file."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import DataError, SpecError
from foretell.spec import ActionSpec, Channel, Episode, Spec
from tests.episodes.samples import SPEC, episode, same


def recorded(path: Path, count: int = 3, **options: object) -> EpisodeStore:
    with EpisodeWriter(path, SPEC, metadata={"seed": 3}, **options) as writer:  # type: ignore[arg-type]
        for i in range(count):
            writer.append(episode(i, gaps=i % 2 == 1))
    return EpisodeStore(path)


@pytest.mark.parametrize("images", ["png", "mp4"])
def test_what_goes_in_comes_out(tmp_path, images):
    store = recorded(tmp_path / "store", 5, images=images)
    assert store.spec == SPEC
    assert store.metadata == {"seed": 3}
    assert store.lengths.tolist() == [12] * 5
    for i, came in enumerate(store):
        assert same(came, episode(i, gaps=i % 2 == 1), lossy=images == "mp4")
    assert same(store[-1], episode(4), lossy=images == "mp4")
    with pytest.raises(IndexError):
        store[5]


@pytest.mark.parametrize("images", ["png", "mp4"])
def test_small_files_are_gathered_into_several(tmp_path, images):
    store = recorded(tmp_path / "store", 7, images=images, file_mb=0.02)
    assert len(list((tmp_path / "store" / "data").rglob("*.parquet"))) > 1
    assert not (tmp_path / "store" / "recording.journal").exists()
    order = [6, 0, 3, 5, 1, 2, 4]
    assert all(same(store[i], episode(i, gaps=i % 2 == 1), lossy=images == "mp4") for i in order)


def test_groups_are_kept_from_the_first_moment(tmp_path):
    wanted = ("anna", "", "béla", "anna")
    with EpisodeWriter(tmp_path / "store", SPEC) as writer:
        for i, group in enumerate(wanted):
            writer.append(replace(episode(i), group=group))
        recording = EpisodeStore(tmp_path / "store")
        assert recording.groups == wanted
        assert recording[2].group == "béla"
    store = EpisodeStore(tmp_path / "store")
    assert store.groups == wanted
    assert [e.group for e in store] == list(wanted)
    assert store.fingerprint() == recording.fingerprint() != recorded(tmp_path / "other", 4).fingerprint()
    with pytest.raises(SpecError, match="the name of its group must be a text, got 3"):
        replace(episode(0), group=3).check(SPEC, "it")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_value_and_type_survives(tmp_path, data):
    steps = data.draw(st.integers(1, 5))
    fields, samples, planes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    height, width, actions = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)), data.draw(st.integers(0, 2))
    spec = Spec(
        observations=(
            Channel(name="image", kind="image", shape=(height, width, planes)),
            Channel(name="vector", kind="vector", shape=(fields,)),
            Channel(name="wave", kind="waveform", shape=(fields, samples)),
        ),
        action=ActionSpec(names=tuple("ab"[:actions])),
        hz=data.draw(st.sampled_from([0.1, 1, 29.97, 1 / 300])),
    )
    dtypes = st.sampled_from([np.float16, np.float32, np.float64, np.int16, np.int64, np.uint8])
    kinds = [data.draw(dtypes) for _ in range(3)]

    def numbers(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        finite = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None
        return data.draw(hnp.arrays(dtype, shape, elements=finite))

    made = Episode(
        observations={
            "image": data.draw(hnp.arrays(np.uint8, (steps, height, width, planes))),
            "vector": numbers(kinds[0], (steps, fields)),
            "wave": numbers(kinds[1], (steps, fields, samples)),
        },
        actions=numbers(kinds[2], (steps - 1, actions)),
        valid={"vector": data.draw(hnp.arrays(np.bool_, (steps, fields)))},
    )
    path = tmp_path / "store"
    shutil.rmtree(path, ignore_errors=True)
    with EpisodeWriter(path, spec) as writer:
        writer.append(made)
        writer.append(made)
        journalled = EpisodeStore(path)[1]
    for came in (journalled, EpisodeStore(path)[1]):
        assert all(np.array_equal(came.observations[n], v) for n, v in made.observations.items())
        assert all(came.observations[n].dtype == v.dtype for n, v in made.observations.items())
        assert np.array_equal(came.actions, made.actions)
        assert actions == 0 or came.actions.dtype == made.actions.dtype
        assert np.array_equal(came.valid.get("vector", np.ones((steps, fields), np.bool_)), made.valid["vector"])
        assert came.times is None


@pytest.mark.parametrize(
    ("shape", "hz"), [((17, 23, 3), 10), ((16, 16, 1), 1 / 300), ((2, 2, 3), 29.97), ((64, 8, 3), 500)]
)
def test_mp4_holds_every_size_and_rate(tmp_path, shape, hz):
    spec = Spec(observations=(Channel(name="camera", kind="image", shape=shape),), hz=hz)
    with EpisodeWriter(tmp_path / "store", spec, images="mp4") as writer:
        for i in range(3):
            writer.append(episode(i, 20, spec))
    store = EpisodeStore(tmp_path / "store")
    assert all(same(store[i], episode(i, 20, spec), lossy=True) for i in (2, 0, 1))


@pytest.mark.parametrize("images", ["png", "mp4"])
def test_frames_are_those_of_the_episode(tmp_path, images):
    with EpisodeWriter(tmp_path / "store", SPEC, images=images) as writer:
        for i in range(3):
            writer.append(episode(i, 90))
    store = EpisodeStore(tmp_path / "store")
    whole = store[1].observations["camera"]
    for steps in ([0], [89], [3, 4, 5], [0, 50, 89], [7, 7], []):
        assert np.array_equal(store.frames("camera", 1, steps), whole[steps])
    with pytest.raises(IndexError, match="below 90"):
        store.frames("camera", 1, [90])
    with pytest.raises(SpecError, match="image channel"):
        store.frames("state", 1, [0])


def test_a_partial_read_has_only_what_was_asked_for(tmp_path):
    store = recorded(tmp_path / "store")
    came = store.read(1, ["state"])
    assert list(came.observations) == ["state"]
    assert np.array_equal(came.observations["state"], episode(1).observations["state"])
    assert np.array_equal(store.mask(1, "state"), episode(1, gaps=True).valid["state"])
    assert np.array_equal(store.mask(1, "camera"), episode(1, gaps=True).valid["camera"])


def test_fingerprints_tell_content_apart(tmp_path):
    with EpisodeWriter(tmp_path / "a", SPEC) as writer:
        writer.append(episode(0))
        journalled = EpisodeStore(tmp_path / "a").fingerprint()
    assert EpisodeStore(tmp_path / "a").fingerprint() == journalled
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert EpisodeStore(tmp_path / "copy").fingerprint() == journalled
    with EpisodeWriter(tmp_path / "b", SPEC) as writer:
        writer.append(episode(1))
    assert EpisodeStore(tmp_path / "b").fingerprint() != journalled


def test_the_tables_are_what_lerobot_reads(tmp_path):
    recorded(tmp_path / "store", 4, images="mp4")
    info = json.loads((tmp_path / "store/meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (4, 48, 10)
    assert info["features"]["observation.state"] == {"dtype": "float64", "shape": [3], "names": ["x", "y", "z"]}
    assert info["features"]["observation.images.camera"]["dtype"] == "video"
    data = pq.read_table(tmp_path / "store/data/chunk-000/file-000.parquet")
    # datasets refuses a table with a column that the features do not list.
    assert set(data.column_names) == {k for k, f in info["features"].items() if f["dtype"] != "video"}
    assert data["index"].to_pylist() == list(range(48))
    assert data["frame_index"].to_pylist() == list(range(12)) * 4
    assert data["timestamp"].to_pylist()[:2] == [0.0, pytest.approx(0.1)]
    actions = np.array(data["action"].to_pylist()).reshape(4, 12, 2)
    assert np.array_equal(actions[:, -1], actions[:, -2])
    assert data["valid.action"].to_pylist() == ([True] * 11 + [False]) * 4
    rows = pq.read_table(tmp_path / "store/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [(12 * i, 12 * i + 12) for i in range(4)]
    assert rows[2]["videos/observation.images.camera/from_timestamp"] == pytest.approx(2.4)
    stats = json.loads((tmp_path / "store/meta/stats.json").read_text())
    states = np.concatenate([episode(i).observations["state"] for i in (0, 2)])
    states = np.concatenate(
        [states]
        + [
            np.where(e.valid["state"], e.observations["state"], np.nan)
            for e in (episode(1, gaps=True), episode(3, gaps=True))
        ]
    )
    assert stats["observation.state"]["mean"] == pytest.approx(np.nanmean(states, 0).tolist())
    assert stats["observation.state"]["max"] == pytest.approx(np.nanmax(states, 0).tolist())
    assert np.shape(stats["observation.images.camera"]["mean"]) == (3, 1, 1)


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    "name",
    [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "videos/observation.images.camera/chunk-000/file-000.mp4",
        "meta/info.json",
        "meta/foretell.json",
    ],
)
def test_a_truncated_file_is_named(tmp_path, name, share):
    recorded(tmp_path / "store", images="mp4")
    if share == 0.999 and name.endswith("json"):
        share = 0.99
    cut(tmp_path / "store" / name, share)
    with pytest.raises(DataError) as caught:
        EpisodeStore(tmp_path / "store")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["parquet", "mp4"])
def test_a_missing_file_is_named(tmp_path, suffix):
    recorded(tmp_path / "store", images="mp4")
    (victim,) = ((tmp_path / "store" / "data") if suffix == "parquet" else (tmp_path / "store" / "videos")).rglob(
        f"*.{suffix}"
    )
    victim.unlink()
    with pytest.raises(DataError, match=victim.name):
        EpisodeStore(tmp_path / "store")


def test_flipped_bytes_are_noticed(tmp_path):
    recorded(tmp_path / "store", 3)
    path = tmp_path / "store/data/chunk-000/file-000.parquet"
    content = bytearray(path.read_bytes())
    content[200:240] = bytes(255 - b for b in content[200:240])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"file-000\.parquet|damaged image"):
        list(EpisodeStore(tmp_path / "store"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "upgrade foretell"),
        ({"format": "other"}, "not written by foretell"),
        ({"spec": {"observations": 3}}, "not a spec"),
        ({"images": "gif"}, "foretell.json"),
    ],
)
def test_foreign_or_newer_stores_are_refused(tmp_path, change, words):
    recorded(tmp_path / "store")
    path = tmp_path / "store/meta/foretell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        EpisodeStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebase_version": "v2.1"}, "LeRobotDataset v3 expected, got v2.1"),
        ({"data_path": "../elsewhere-{chunk_index}-{file_index}.parquet"}, "outside"),
        ({"data_path": "data/{episode_chunk}"}, "template"),
        ({"fps": "fast"}, "fps"),
        ({"total_episodes": 7}, "7 episodes expected, got 3"),
    ],
)
def test_info_json_is_checked(tmp_path, change, words):
    recorded(tmp_path / "store")
    path = tmp_path / "store/meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        EpisodeStore(tmp_path / "store")


def test_paths_that_are_no_store(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        EpisodeStore(tmp_path / "nothing")
    with pytest.raises(DataError, match="not an episode store"):
        EpisodeStore(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="not an episode store"):
        EpisodeStore(tmp_path / "file")


def test_unlimited_bounds_and_an_empty_store(tmp_path):
    spec = Spec(observations=(Channel(name="x", kind="vector", shape=(1,)),), action=ActionSpec(names=("a",)))
    EpisodeWriter(tmp_path / "store", spec).close()
    store = EpisodeStore(tmp_path / "store")
    assert len(store) == 0
    assert store.spec.action.high == (math.inf,)
