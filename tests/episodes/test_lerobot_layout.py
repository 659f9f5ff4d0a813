"""LeRobotDataset v3 folders that others recorded open as they are."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foretell.episodes.store import EpisodeStore
from foretell.episodes.windows import Windows
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import DataError
from tests.episodes.samples import same

LENGTHS, FPS, SIZE = (40, 25), 30, (32, 48)


def frame(row: int) -> np.ndarray:
    ramp = np.arange(SIZE[0])[:, None, None] * 3 + np.arange(SIZE[1])[None, :, None]
    return ((ramp + 2 * row) % 150 + np.array([0, 20, 40])).astype(np.uint8)


def write_foreign(root: Path, *, group: int = 10_000) -> dict[str, np.ndarray]:
    """A dataset as lerobot writes it, by other means: shared files, B-frames, two grippers, a reward, a NaN."""
    rows = sum(LENGTHS)
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=(rows, 2)).astype(np.float32)
    state[5, 1] = np.nan
    index = np.arange(rows)
    within = np.concatenate([np.arange(n) for n in LENGTHS])
    data = pa.table(
        {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 3),
            "action": pa.array(action.tolist(), pa.list_(pa.float32())),
            "next.reward": pa.array(index.astype(np.float32)),
            "next.done": pa.array(within == 0),
            "timestamp": pa.array((within / FPS).astype(np.float32)),
            "frame_index": pa.array(within),
            "episode_index": pa.array(np.repeat(np.arange(len(LENGTHS)), LENGTHS)),
            "index": pa.array(index),
            "task_index": pa.array(np.zeros(rows, np.int64)),
        }
    )
    path = root / "data/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(data, path, row_group_size=group)
    key = "observation.images.top"
    video = root / f"videos/{key}/chunk-000/file-000.mp4"
    video.parent.mkdir(parents=True)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "40", "bf": "2", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for row in range(rows):
            picture = av.VideoFrame.from_ndarray(frame(row), format="rgb24")
            picture.pts, picture.time_base = row, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    ends = np.cumsum(LENGTHS)
    episodes = pa.table(
        {
            "episode_index": pa.array([1, 0]),
            "tasks": [["push"], ["push"]],
            "length": pa.array(LENGTHS[::-1]),
            "data/chunk_index": [0, 0],
            "data/file_index": [0, 0],
            "dataset_from_index": pa.array((ends - LENGTHS)[::-1]),
            "dataset_to_index": pa.array(ends[::-1]),
            f"videos/{key}/chunk_index": [0, 0],
            f"videos/{key}/file_index": [0, 0],
            f"videos/{key}/from_timestamp": pa.array(((ends - LENGTHS) / FPS)[::-1]),
            f"videos/{key}/to_timestamp": pa.array((ends / FPS)[::-1]),
            "stats/action/mean": [[0.0, 0.0]] * 2,
        }
    )
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(episodes, path)
    integer = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        key: {"dtype": "video", "shape": [3, *SIZE], "names": ["channels", "height", "width"], "info": {}},
        "observation.images.depth": {
            "dtype": "video",
            "shape": [8, 8, 1],
            "names": None,
            "info": {"is_depth_map": True},
        },
        "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["x", "grip", "grip"]}},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), integer),
    }
    info = {
        "codebase_version": "v3.0",
        "robot_type": "so100",
        "total_episodes": len(LENGTHS),
        "total_frames": rows,
        "fps": FPS,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return {"state": state, "action": action}


def test_a_spec_is_derived(tmp_path):
    write_foreign(tmp_path)
    store = EpisodeStore(tmp_path)
    image, state = store.spec.observations
    assert (image.name, image.shape) == ("observation.images.top", (*SIZE, 3))
    assert state.fields == ("x", "grip", "grip_2")
    assert [c.name for c in store.spec.quantities] == ["next.reward"]
    assert store.spec.action.names == ("action_0", "action_1")
    assert store.spec.hz == FPS
    assert store.skipped == ("observation.images.depth", "next.done")


@pytest.mark.parametrize("group", [7, 10_000])
def test_episodes_are_found_inside_shared_files(tmp_path, group):
    made = write_foreign(tmp_path, group=group)
    store = EpisodeStore(tmp_path)
    assert store.lengths.tolist() == list(LENGTHS)
    for i, start in ((1, 40), (0, 0)):
        came, rows = store[i], slice(start, start + LENGTHS[i])
        assert np.array_equal(came.observations["observation.state"], made["state"][rows], equal_nan=True)
        assert np.array_equal(came.actions, made["action"][rows][:-1])
        assert np.array_equal(came.observations["next.reward"][:, 0], np.arange(start, start + LENGTHS[i]))
        shown = came.observations["observation.images.top"].astype(int)
        expected = np.stack([frame(start + t) for t in range(LENGTHS[i])])
        assert np.abs(shown - expected).mean() < 2
    assert np.argwhere(~store[0].valid["observation.state"]).tolist() == [[5, 1]]
    assert not store[1].valid


def test_single_frames_are_decoded_wherever_key_frames_lie(tmp_path):
    write_foreign(tmp_path)
    store = EpisodeStore(tmp_path)
    for step in (0, 1, 12, 24):
        (shown,) = store.frames("observation.images.top", 1, [step])
        assert np.abs(shown.astype(int) - frame(40 + step)).mean() < 2


def test_it_trains_and_can_be_recorded_again(tmp_path):
    write_foreign(tmp_path / "foreign")
    store = EpisodeStore(tmp_path / "foreign")
    batch = Windows(store, length=3, cache=tmp_path / "cache").batch(np.array([3, 50]))
    assert not batch.valid["observation.state"][0, 2, 1]
    assert batch.observations["observation.state"][0, 2, 1] == 0
    with EpisodeWriter(tmp_path / "ours", store.spec, images="png") as writer:
        for episode in store:
            writer.append(episode)
    again = EpisodeStore(tmp_path / "ours")
    assert np.array_equal(again[0].valid["observation.state"], store[0].valid["observation.state"])
    assert same(again[1], store[1])


def test_a_truncated_foreign_video_is_named(tmp_path):
    write_foreign(tmp_path)
    (video,) = tmp_path.rglob("*.mp4")
    video.write_bytes(video.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"file-000\.mp4: truncated"):
        EpisodeStore(tmp_path)


def test_rows_that_do_not_match_are_refused(tmp_path):
    write_foreign(tmp_path)
    path = tmp_path / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 60), path)
    with pytest.raises(DataError, match="25 rows of episode 1 expected, got 20"):
        EpisodeStore(tmp_path)[1]
