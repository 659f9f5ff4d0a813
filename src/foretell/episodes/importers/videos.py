"""Imports folders of videos: each mp4 is an episode, beside a table of the same name with its actions and vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from foretell.episodes.importers.columns import SUFFIXES, Table
from foretell.episodes.importers.source import Source
from foretell.episodes.importers.table import Rows, TableOptions, TableReader, open_tables
from foretell.errors import DataError, SpecError
from foretell.spec import Channel, Episode

VIDEOS = (".mp4",)


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How videos and their tables are read.

    table: what the columns mean; one row per frame, or one fewer where a table holds actions alone. Where
    neither actions nor observations are named, every column is an action. Its hz says at how many
    frames a second the videos were taken (None: as they say themselves); no frame is dropped or doubled.
    size: (height, width) to resize to, None to keep. camera: name of the image channel.
    """

    table: TableOptions = field(default_factory=TableOptions)
    size: tuple[int, int] | None = None
    camera: str = "camera"

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise SpecError(f"size: a height and a width in pixels expected, got {self.size}")
        if self.table.episode is not None:
            raise SpecError("videos: each file is an episode; leave out --episode")


@dataclass(frozen=True)
class _Video:
    path: Path
    height: int
    width: int
    frames: int
    """As the file says; 0 where it does not."""
    hz: float


def is_video_folder(path: Path) -> bool:
    """Whether a folder holds videos of its own."""
    return path.is_dir() and any(p.suffix.lower() in VIDEOS for p in path.iterdir())


def import_videos(path: Path, options: VideoOptions) -> Source:
    """A folder of `NAME.mp4` files, each with `NAME.csv`, `.tsv` or `.parquet`, as episodes of frames and actions.

    Every file is opened, and its frames counted against its rows, before the first episode is read.
    Raises DataError or SpecError naming the file for a video that is damaged, of another size or rate,
    or without as many frames as its table has rows.
    """
    paths = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEOS)
    if not paths:
        raise DataError(f"{path}: a folder with {', '.join(VIDEOS)} files expected, got none")
    videos = [_probe(p) for p in paths]
    table_paths = [_table_of(p) for p in paths]
    table = options.table
    if not table.actions and table.observations is None:
        names = Table(table_paths[0]).names
        table = replace(table, actions=[n for n in names if n not in table.named], observations={})
    reader = open_tables(table_paths, replace(table, observations=table.observations or {}))
    hz = _agreed(videos, options)
    height, width = options.size or (videos[0].height, videos[0].width)
    camera = Channel(name=options.camera, kind="image", shape=(height, width, 3))
    spec = reader.spec(hz, (camera,))
    all_rows = _check_rows(reader, videos)
    metadata: dict[str, Any] = {"source": path.name, "format": "videos"}
    if table.time is not None:
        metadata["time_unit"] = reader.time_unit
    return Source(
        spec=spec,
        episodes=(_episode(reader, rows, video, camera) for rows, video in zip(all_rows, videos, strict=True)),
        count=len(videos),
        metadata=metadata,
    )


def _table_of(video: Path) -> Path:
    found = [video.with_suffix(s) for s in SUFFIXES if video.with_suffix(s).is_file()]
    if len(found) != 1:
        came = "none" if not found else ", ".join(p.name for p in found)
        names = ", ".join(video.with_suffix(s).name for s in SUFFIXES)
        raise DataError(f"{video}: one table of its actions expected beside it ({names}), got {came}")
    return found[0]


def _check_rows(reader: TableReader, videos: list[_Video]) -> list[Rows]:
    """Each video's rows; the tables are small beside the frames, so they are all read first."""
    found = {rows.path: rows for rows in reader.rows()}
    for table, video in zip(reader.tables, videos, strict=True):
        if table.path not in found:
            raise DataError(f"{table.path}: the table has no rows")
        if video.frames:
            _check_count(reader, found[table.path], video, video.frames)
    return [found[table.path] for table in reader.tables]


def _check_count(reader: TableReader, rows: Rows, video: _Video, frames: int) -> None:
    alone = not reader.observations and not reader.options.quantities and rows.times is None
    if len(rows) != frames and not (alone and len(rows) == frames - 1):
        or_fewer = f" or {frames - 1}" if alone else ""
        raise DataError(
            f"{video.path}: {frames} frames need {frames}{or_fewer} rows, but {rows.path.name} has {len(rows)}"
        )


def _agreed(videos: list[_Video], options: VideoOptions) -> float:
    first = videos[0]
    for video in videos[1:]:
        if options.size is None and (video.height, video.width) != (first.height, first.width):
            raise DataError(
                f"{video.path}: frames of {first.height} x {first.width} expected as in {first.path.name},"
                f" got {video.height} x {video.width}; choose one size with --size"
            )
        if options.table.hz is None and abs(video.hz - first.hz) > 1e-3 * first.hz:
            raise DataError(
                f"{video.path}: {first.hz:g} frames a second expected as in {first.path.name},"
                f" got {video.hz:g}; say with --hz at how many they were taken"
            )
    return options.table.hz or first.hz


def _episode(reader: TableReader, rows: Rows, video: _Video, camera: Channel) -> Episode:
    frames = _decode(video, camera)
    count = len(frames)
    _check_count(reader, rows, video, count)
    steps: NDArray[np.int64] = np.arange(len(rows))
    observations, valid = reader.vectors(rows, steps, count)
    return Episode(
        observations={camera.name: frames, **observations},
        actions=reader.actions(rows, count - 1),
        valid=valid,
        times=rows.times,
    )


def _probe(path: Path) -> _Video:
    with _opened(path) as (_, stream):
        if not stream.height or not stream.width:
            raise DataError(f"{path}: a whole video expected, got a damaged file")
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise DataError(f"{path}: the video does not say its frames a second")
        return _Video(path, stream.height, stream.width, stream.frames, float(rate))


def _decode(video: _Video, camera: Channel) -> NDArray[np.uint8]:
    height, width, _ = camera.shape
    frames: list[NDArray[np.uint8]] = []
    with _opened(video.path) as (container, stream):
        for packet in container.demux(stream):
            # A packet that is cut short would still decode, to a frame with made-up parts.
            if packet.is_corrupt:
                raise DataError(f"{video.path}: a whole video expected, but it is cut short at frame {len(frames)}")
            for frame in packet.decode():
                same = (frame.height, frame.width) == (height, width)
                made = frame if same else frame.reformat(width=width, height=height, interpolation=Interpolation.AREA)
                frames.append(made.to_ndarray(format="rgb24"))
    if not frames or (video.frames and len(frames) != video.frames):
        raise DataError(f"{video.path}: {video.frames} frames expected, only {len(frames)} can be read: cut short")
    return np.stack(frames)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(f"{path}: a whole video expected, got a damaged or foreign file ({error.strerror})") from error
