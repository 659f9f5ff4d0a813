"""Folders of videos become episodes of frames, actions and vectors, or are refused by the file's name."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.episodes.importers.table import TableOptions
from foretell.episodes.importers.videos import VideoOptions, import_videos, is_video_folder
from foretell.errors import DataError, SpecError

FRAMES = 12


def frames(count: int = FRAMES, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Frame i is a grey of 15 i."""
    return (np.arange(count, dtype=np.uint8) * 15)[:, None, None, None] * np.ones((height, width, 3), np.uint8)


def write_mp4(path: Path, images: NDArray[np.uint8], hz: int = 10) -> None:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=hz)
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], "yuv420p"
        stream.bit_rate = 4_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def clip(folder: Path, name: str, rows: int = FRAMES, **options: int) -> Path:
    path = folder / f"{name}.mp4"
    write_mp4(path, frames(**options))
    lines = [f"{i},{-i},{i / 10}\n" for i in range(rows)]
    path.with_suffix(".csv").write_text("dx,dy,force\n" + "".join(lines))
    return path


def test_frames_and_actions_stay_in_step(tmp_path: Path) -> None:
    clip(tmp_path, "a")
    clip(tmp_path, "b")
    assert is_video_folder(tmp_path)
    options = TableOptions(actions=["dx", "dy"], observations={"gripper": ["force"]})
    source = import_videos(tmp_path, VideoOptions(table=options, camera="top"))
    assert (source.count, source.spec.hz) == (2, 10.0)
    assert source.spec.channel("top").shape == (48, 64, 3)
    assert source.spec.action.names == ("dx", "dy")
    found = list(source.episodes)
    for episode in found:
        episode.check(source.spec, "here")
        grey = episode.observations["top"].mean((1, 2, 3))
        assert np.abs(grey - 15 * np.arange(FRAMES)).max() < 4
        assert episode.observations["gripper"][:, 0] == pytest.approx(np.arange(FRAMES) / 10)
        assert episode.actions.tolist() == [[i, -i] for i in range(FRAMES - 1)]


def test_every_column_is_an_action_where_none_is_named_and_frames_are_resized(tmp_path: Path) -> None:
    clip(tmp_path, "a", rows=FRAMES - 1)
    clip(tmp_path, "b", height=96, width=128)
    source = import_videos(tmp_path, VideoOptions(size=(24, 32)))
    assert source.spec.action.names == ("dx", "dy", "force")
    for episode in source.episodes:
        episode.check(source.spec, "here")
        assert episode.observations["camera"].shape == (FRAMES, 24, 32, 3)
        assert np.abs(episode.observations["camera"].mean((1, 2, 3)) - 15 * np.arange(FRAMES)).max() < 4


def test_hz_overrides_what_the_files_say(tmp_path: Path) -> None:
    clip(tmp_path, "a")
    source = import_videos(tmp_path, VideoOptions(table=TableOptions(hz=25.0)))
    assert (source.spec.hz, len(next(source.episodes))) == (25.0, FRAMES)


def test_frames_are_counted_against_rows_before_anything_is_read(tmp_path: Path) -> None:
    clip(tmp_path, "a")
    clip(tmp_path, "b", rows=FRAMES + 3)
    with pytest.raises(DataError, match=r"b\.mp4: 12 frames need 12 or 11 rows, but b\.csv has 15"):
        import_videos(tmp_path, VideoOptions())


def test_one_row_fewer_is_too_few_for_vectors(tmp_path: Path) -> None:
    clip(tmp_path, "a", rows=FRAMES - 1)
    with pytest.raises(DataError, match="12 frames need 12 rows"):
        import_videos(tmp_path, VideoOptions(table=TableOptions(observations={"f": ["force"]}, actions=["dx"])))


@pytest.mark.parametrize("share", [0.02, 0.6, 0.999])
def test_a_truncated_video_is_refused_by_name(tmp_path: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    path = clip(tmp_path, "cut")
    write_mp4(path, rng.integers(0, 255, (FRAMES, 48, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut\.mp4"):
        list(import_videos(tmp_path, VideoOptions()).episodes)


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    clip(tmp_path, "a")
    other = clip(tmp_path, "b", height=96, width=128)
    with pytest.raises(DataError, match=r"b\.mp4: frames of 48 x 64 expected as in a\.mp4, got 96 x 128.*--size"):
        import_videos(tmp_path, VideoOptions())
    write_mp4(other, frames(), hz=25)
    with pytest.raises(DataError, match=r"b\.mp4: 10 frames a second expected as in a\.mp4, got 25"):
        import_videos(tmp_path, VideoOptions())
    other.with_suffix(".csv").unlink()
    with pytest.raises(DataError, match=r"b\.mp4: one table .* expected beside it .*got none"):
        import_videos(tmp_path, VideoOptions())
    other.write_text("not a video")
    with pytest.raises(DataError, match=r"b\.mp4: a whole video expected"):
        import_videos(tmp_path, VideoOptions())
    with pytest.raises(SpecError, match="each file is an episode"):
        VideoOptions(table=TableOptions(episode="id"))
