"""Writes episode stores: each episode durable when `append` returns, then gathered into LeRobot's files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foretell.episodes import layout
from foretell.episodes.images import encode_png
from foretell.episodes.journal import GROUP, Journal, JournalReader
from foretell.episodes.journal import NAME as JOURNAL
from foretell.episodes.statistics import Moments
from foretell.episodes.table import to_arrow, write_json, write_table, write_whole
from foretell.episodes.video import encode_mp4, join_mp4
from foretell.errors import DataError, SpecError
from foretell.spec import Episode, Spec

_EPISODES_PER_FILE = 1000
_STATS_FRAMES, _STATS_PIXELS = 8, 32
_TASK = ""


class EpisodeWriter:
    """Records episodes into a new store at `path` (a context manager).

    images: `png` keeps every pixel; `mp4` is smaller and lossy. metadata: anything JSON can hold.
    file_mb: size at which journalled episodes are gathered into one file.

    A crash, even kill -9, loses at most the episode being appended: finished ones stand in a journal, which
    `EpisodeStore` reads, until they are in files that meta/info.json counts.
    Raises DataError if `path` exists and is not empty, or cannot be written; SpecError if the spec does not fit
    the format.
    """

    def __init__(
        self,
        path: str | Path,
        spec: Spec,
        *,
        images: Literal["png", "mp4"] = "png",
        metadata: Mapping[str, Any] | None = None,
        file_mb: float = 64.0,
    ) -> None:
        self.path = Path(path)
        self.spec = spec
        self._streams = layout.streams_of(spec, images)
        self._file_mb = file_mb
        try:
            ours = {
                "format": layout.FORMAT,
                "version": layout.FORMAT_VERSION,
                "spec": spec.to_json(),
                "images": images,
                "metadata": json.loads(json.dumps(dict(metadata or {}), allow_nan=False)),
            }
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: the metadata must be what JSON can hold: {error}") from error
        try:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise DataError(f"{self.path}: exists and is not empty; choose another folder or remove it")
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / layout.OURS, ours)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        self._journal = Journal(self.path / JOURNAL)
        self._schema: pa.Schema | None = None
        self._moments: dict[str, Moments] = {}
        self._episodes = self._frames = self._filed_frames = self._files = 0
        self._closed = False

    def __len__(self) -> int:
        """Episodes appended."""
        return self._episodes

    def append(self, episode: Episode) -> None:
        """Check one episode against the spec and store it; it is safe on disk when this returns.

        Raises SpecError if it does not fit, DataError if the disk does not take it. The episodes before it stay.
        """
        where = f"{self.path}: episode {self._episodes}"
        if self._closed:
            raise DataError(f"{where}: the store is closed")
        episode.check(self.spec, where)
        table = self._table(episode, where)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        parts = {"table": sink.getvalue().to_pybytes()}
        for channel in self.spec.channels:
            if self._streams[channel.name].source == "video":
                parts[f"video:{channel.name}"] = encode_mp4(episode.observations[channel.name], self.spec.hz)
        if episode.group:
            parts[GROUP] = episode.group.encode()
        try:
            self._journal.append(self._episodes, len(episode), parts)
        except OSError as error:
            raise DataError(
                f"{where}: cannot be written: {error.strerror or error}; the {self._episodes} before it are kept"
            ) from error
        self._episodes += 1
        self._frames += len(episode)
        self._observe(episode)
        if len(self._journal) >= self._file_mb * 2**20 or len(self._journal.entries) >= _EPISODES_PER_FILE:
            self._gather()

    def close(self) -> None:
        """Gather what is left and finish the files; DataError if the disk does not take it (nothing is lost)."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._journal.entries:
                self._gather()
        finally:
            self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DataError:
            # The first error is the one to see; the episodes are in the journal either way.
            if error is None:
                raise

    def _table(self, episode: Episode, where: str) -> pa.Table:
        steps, columns = len(episode), {}
        for channel in self.spec.channels:
            stream, values = self._streams[channel.name], episode.observations[channel.name]
            if stream.source == "image":
                encoded = pa.array(encode_png(values), pa.binary())
                columns[stream.key] = pa.StructArray.from_arrays(
                    [encoded, pa.nulls(steps, pa.string())], names=["bytes", "path"]
                )
            elif stream.source == "values":
                columns[stream.key] = to_arrow(values)
            assert stream.valid is not None
            fields = 1 if channel.kind == "image" else channel.shape[0]
            columns[stream.valid] = to_arrow(_mask(episode, channel.name, steps, fields))
        if self.spec.action.size:
            columns[layout.ACTION] = to_arrow(self._padded(episode.actions))
            columns[layout.VALID_ACTION] = to_arrow(np.arange(steps) < steps - 1)
        if episode.times is not None:
            columns[layout.TIME] = to_arrow(episode.times)
        table = pa.table(columns)
        if self._schema is None:
            self._schema = table.schema
        return table if table.schema.equals(self._schema) else self._widened(table, where)

    def _widened(self, table: pa.Table, where: str) -> pa.Table:
        """The table in the types of the first episode, if no value changes by it."""
        assert self._schema is not None
        if table.column_names != self._schema.names:
            raise SpecError(f"{where}: times must be given for all episodes or for none")
        for name in table.column_names:
            expected, came = self._schema.field(name).type, table.schema.field(name).type
            if expected == came:
                continue
            try:
                cast = table.column(name).cast(expected)
                same = cast.cast(came).equals(table.column(name))
            except pa.ArrowException:
                same = False
            if not same:
                raise SpecError(
                    f"{where}: {name} must keep the type of the first episode, {expected}, got {came};"
                    " use the wider type from the start"
                )
            table = table.set_column(table.schema.get_field_index(name), self._schema.field(name), cast)
        return table

    def _padded(self, actions: NDArray[Any]) -> NDArray[Any]:
        if len(actions):
            return np.concatenate([actions, actions[-1:]])
        return self.spec.action.still.astype(actions.dtype)[None]

    def _observe(self, episode: Episode) -> None:
        """Take the episode into the statistics that LeRobot normalises by; of images, some pixels of a few frames."""
        for channel in self.spec.channels:
            values = episode.observations[channel.name]
            mask = _mask(episode, channel.name, len(episode), 1 if channel.kind == "image" else channel.shape[0])
            if channel.kind == "image":
                chosen = np.flatnonzero(mask[:, 0])
                chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), _STATS_FRAMES)).astype(int)]
                coarse = max(1, min(channel.shape[:2]) // _STATS_PIXELS)
                values = values[chosen, ::coarse, ::coarse].reshape(-1, channel.shape[2]) / 255.0
                mask = np.ones(values.shape, np.bool_)
            self._moments.setdefault(self._streams[channel.name].key, Moments()).add(values, mask)
        if self.spec.action.size:
            ones = np.ones(episode.actions.shape, np.bool_)
            self._moments.setdefault(layout.ACTION, Moments()).add(episode.actions, ones)

    def _gather(self) -> None:
        """Move the journal's episodes into one data file (and one video per camera); info.json makes it count."""
        try:
            reader = JournalReader(self._journal.path)
            place = {
                "chunk_index": self._files // layout.FILES_PER_CHUNK,
                "file_index": self._files % layout.FILES_PER_CHUNK,
            }
            data = layout.file_path(self.path, layout.DATA_PATH, **place)
            write_whole(data, functools.partial(self._write_data, reader))
            for name, stream in self._streams.items():
                if stream.source == "video":
                    video = layout.file_path(self.path, layout.VIDEO_PATH, video_key=stream.key, **place)
                    write_whole(video, functools.partial(self._write_video, reader, name))
            episodes = layout.file_path(self.path, layout.EPISODES_PATH, **place)
            write_table(episodes, self._episode_rows(reader, place))
            if not self._files:
                write_table(self.path / layout.TASKS, _tasks())
            pictures = {s.key for s in self._streams.values() if s.source != "values"}
            stats = {key: m.to_lerobot(image=key in pictures) for key, m in self._moments.items()}
            write_json(self.path / layout.STATS, stats)
            write_json(self.path / layout.INFO, self._info())
            self._journal.clear()
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{self.path}: cannot be written: {getattr(error, 'strerror', None) or error};"
                f" the {self._episodes} episodes recorded are kept"
            ) from error
        self._files += 1
        self._filed_frames = self._frames

    def _write_data(self, reader: JournalReader, path: Path) -> None:
        assert self._schema is not None
        schema = self._schema
        for key in layout.BOOKKEEPING:
            schema = schema.append(pa.field(key, pa.float32() if key == "timestamp" else pa.int64()))
        first = self._filed_frames
        options = {"compression": "SNAPPY", "use_dictionary": False, "write_page_checksum": True}
        with pq.ParquetWriter(path, schema, **options) as out:
            for entry in reader.entries:
                frames = np.arange(entry.steps)
                table = reader.table(entry)
                for key, values in {
                    "timestamp": (frames / self.spec.hz).astype(np.float32),
                    "frame_index": frames,
                    "episode_index": np.full(entry.steps, entry.index),
                    "index": first + frames,
                    "task_index": np.zeros(entry.steps, np.int64),
                }.items():
                    table = table.append_column(key, pa.array(values))
                out.write_table(table, row_group_size=entry.steps)
                first += entry.steps

    def _write_video(self, reader: JournalReader, name: str, path: Path) -> None:
        join_mp4(((reader.part(e, f"video:{name}"), e.steps) for e in reader.entries), path, self.spec.hz)

    def _episode_rows(self, reader: JournalReader, place: Mapping[str, int]) -> pa.Table:
        """LeRobot's table of episodes, with each one's digest and group."""
        entries = reader.entries
        steps = np.array([e.steps for e in entries])
        ends = np.cumsum(steps)
        columns: dict[str, Any] = {
            "episode_index": np.array([e.index for e in entries]),
            "tasks": [[_TASK]] * len(entries),
            "length": steps,
            "dataset_from_index": self._filed_frames + ends - steps,
            "dataset_to_index": self._filed_frames + ends,
        }
        videos = [s.key for s in self._streams.values() if s.source == "video"]
        for kind in ("data", "meta/episodes", *(f"videos/{key}" for key in videos)):
            for part, number in place.items():
                columns[f"{kind}/{part}"] = np.full(len(entries), number)
        for key in videos:
            columns[f"videos/{key}/from_timestamp"] = (ends - steps) / self.spec.hz
            columns[f"videos/{key}/to_timestamp"] = ends / self.spec.hz
        columns["foretell/digest"] = [e.digest for e in entries]
        columns["foretell/group"] = [reader.group(e) for e in entries]
        return pa.table(columns)

    def _info(self) -> dict[str, Any]:
        assert self._schema is not None
        dtypes = {}
        for field in self._schema:
            kind = field.type
            while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
                kind = kind.value_type
            if not pa.types.is_struct(kind):
                dtypes[field.name] = str(np.dtype(kind.to_pandas_dtype()))
        features = layout.features_of(self.spec, self._streams, dtypes)
        return layout.info_of(self.spec, features, self._episodes, self._frames, self._file_mb)


def _mask(episode: Episode, name: str, steps: int, fields: int) -> NDArray[np.bool_]:
    """The mask of a channel as (steps, fields)."""
    mask = episode.valid.get(name)
    if mask is None:
        return np.ones((steps, fields), np.bool_)
    return np.broadcast_to(mask.reshape(steps, -1), (steps, fields))


def _tasks() -> pa.Table:
    """The table of tasks (one without a text), with the index that pandas is to restore."""
    described = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": n, "field_name": n, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for n, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": np.array([0]), "task": [_TASK]})
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
