"""Opens episode stores, ours and LeRobotDataset v3 folders that others recorded, and reads episodes from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foretell.episodes import layout
from foretell.episodes.images import decode_images
from foretell.episodes.journal import NAME as JOURNAL
from foretell.episodes.journal import Entry, JournalReader
from foretell.episodes.parquet import RowReader
from foretell.episodes.table import check_parquet, from_arrow, read_json, reading
from foretell.episodes.video import check_mp4, decode_mp4
from foretell.errors import DataError, SpecError
from foretell.spec import Channel, Episode, Spec

_ENDS = 2**16


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where one gathered episode lies: its number in the files, first row (None: look it up), and videos."""

    number: int
    data: Path
    row: int | None
    videos: dict[str, tuple[Path, float]]
    digest: str
    group: str


class EpisodeStore:
    """The episodes recorded in the folder `path`, read-only.

    spec: what they show. metadata: what the recording noted. lengths: (episodes,) steps observed, T + 1, of each.
    groups: (episodes,) whom or what each is about, see `Episode.group`.
    skipped: features of a foreign dataset that no channel can hold (texts, integers, depth maps).
    Raises DataError, with one line naming the file, if the folder is missing, foreign, truncated or damaged.
    Nothing in a store is ever executed.
    """

    path: Path
    spec: Spec
    metadata: dict[str, Any]
    lengths: NDArray[np.int64]
    groups: tuple[str, ...]
    skipped: tuple[str, ...]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"{self.path}: no such folder; `foretell record` or `foretell import` makes one")
        if not self.path.is_dir() or not any((self.path / p).exists() for p in (layout.OURS, layout.INFO)):
            raise DataError(f"{self.path}: not an episode store: it has no {layout.INFO}")
        info = layout.read_info(self.path) if (self.path / layout.INFO).exists() else None
        self._ours = (self.path / layout.OURS).exists()
        if self._ours:
            self._open_ours()
        else:
            assert info is not None
            self.metadata = {}
            self.spec, self._streams, self.skipped = layout.derive(self.path, info)
        self._places, lengths = self._gathered(info) if info is not None else ([], [])
        self._pending: list[Entry] = []
        if self._ours and (self.path / JOURNAL).exists():
            self._journal = JournalReader(self.path / JOURNAL)
            self._pending = [e for e in self._journal.entries if e.index >= len(self._places)]
            lengths += [e.steps for e in self._pending]
        self.lengths = np.array(lengths, np.int64)
        pending = (self._journal.group(e) for e in self._pending)
        self.groups = (*(p.group for p in self._places), *pending)
        self._reader = RowReader()
        self._has_times = self._ours and info is not None and layout.TIME in info["features"]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    def __getitem__(self, i: int) -> Episode:
        """Episode i, whole. Values keep the type they were recorded in; the mask names only what has gaps."""
        return self.read(i)

    def __iter__(self) -> Iterator[Episode]:
        """The episodes in order."""
        return (self.read(i) for i in range(len(self)))

    def read(self, i: int, channels: Iterable[str] | None = None) -> Episode:
        """Episode i with only the given channels (None: all); masks of vectors and waveforms are (T+1, F)."""
        i = self._number(i)
        chosen = [self.spec.channel(n) for n in channels] if channels is not None else list(self.spec.channels)
        where = f"{self.path}: episode {i}"
        steps = int(self.lengths[i])
        table = self._table(i, self._columns(chosen, i), 0, steps)
        observations: dict[str, NDArray[Any]] = {}
        valid: dict[str, NDArray[np.bool_]] = {}
        for channel in chosen:
            stream = self._streams[channel.name]
            if stream.source == "values":
                values = from_arrow(table.column(stream.key), channel.shape, f"{where}: {stream.key}")
                if not self._ours:
                    finite = np.isfinite(values).reshape(steps, channel.shape[0], -1).all(2)
                    if not finite.all():
                        valid[channel.name] = finite
            else:
                values = self._images(channel, i, np.arange(steps), table)
            observations[channel.name] = values
            if stream.valid is not None:
                shape = () if channel.kind == "image" else (channel.shape[0],)
                mask = from_arrow(table.column(stream.valid), shape or (1,), f"{where}: {stream.valid}")
                if not mask.all():
                    valid[channel.name] = mask.reshape(steps, *shape).astype(np.bool_, copy=False)
        size = self.spec.action.size
        actions = (
            from_arrow(table.column(layout.ACTION), (size,), f"{where}: action")[: steps - 1]
            if size
            else np.zeros((steps - 1, 0), np.float32)
        )
        times = next((n for n in (layout.TIME, "timestamp") if n in table.column_names), None)
        return Episode(
            observations=observations,
            actions=actions,
            valid=valid,
            times=None if times is None else from_arrow(table.column(times), (), f"{where}: {times}"),
            group=self.groups[i],
        )

    def frames(self, channel: str, i: int, steps: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (n, H, W, C) of a channel at ascending `steps` of episode i; decodes what these need and no more."""
        i, wanted = self._number(i), np.asarray(steps, np.int64)
        found = self.spec.channel(channel)
        if found.kind != "image":
            raise SpecError(f"channel {channel}: an image channel expected, got a {found.kind}")
        if not len(wanted):
            return np.zeros((0, *found.shape), np.uint8)
        if wanted[0] < 0 or wanted[-1] >= self.lengths[i] or (np.diff(wanted) < 0).any():
            raise IndexError(f"episode {i}: ascending steps below {self.lengths[i]} expected, got {wanted.tolist()}")
        stream = self._streams[channel]
        if stream.source == "video":
            return self._images(found, i, wanted, None)
        first = int(wanted[0])
        table = self._table(i, [stream.key], first, int(wanted[-1]) + 1)
        return self._images(found, i, wanted - first, table)

    def encoding(self, channel: str) -> layout.Source:
        """How a channel is kept: `image` (a picture file per frame), `video` (mp4) or `values` (numbers)."""
        return self._streams[self.spec.channel(channel).name].source

    def mask(self, i: int, channel: str) -> NDArray[np.bool_]:
        """Which entries of a channel of episode i are there, (T+1,) for images, (T+1, F) else; decodes no image."""
        i, found = self._number(i), self.spec.channel(channel)
        steps, column = int(self.lengths[i]), self._streams[channel].valid
        if column is None:
            if found.kind == "image":
                return np.ones(steps, np.bool_)
            return self.read(i, [channel]).valid.get(channel, np.ones((steps, found.shape[0]), np.bool_))
        shape = () if found.kind == "image" else (found.shape[0],)
        mask = from_arrow(self._table(i, [column], 0, steps).column(column), shape or (1,), f"{self.path}: {column}")
        return mask.reshape(steps, *shape).astype(np.bool_, copy=False)

    def fingerprint(self) -> str:
        """A hash of the spec, but for its notice, and of every episode; of a foreign dataset, of the two ends of every
        file.
        """
        spec = replace(self.spec, notice="").to_json()
        digest = hashlib.blake2b(json.dumps(spec, sort_keys=True).encode(), digest_size=16)
        digest.update(self.lengths.tobytes())
        if self._ours:
            for part in [p.digest for p in self._places] + [e.digest for e in self._pending]:
                digest.update(part.encode())
            return digest.hexdigest()
        files = {p.data for p in self._places} | {f for p in self._places for f, _ in p.videos.values()}
        for path in sorted(files):
            with reading(path), path.open("rb") as file:
                size = file.seek(0, 2)
                digest.update(f"{path.relative_to(self.path)}:{size};".encode())
                for at in (0, max(0, size - _ENDS)):
                    file.seek(at)
                    digest.update(file.read(_ENDS))
        return digest.hexdigest()

    def content(self, i: int) -> str:
        """A hash of an episode's actions and vectors (of its first images where it has neither): the same in whatever
        store and place the episode lies.
        """
        vectors = [c.name for c in self.spec.channels if c.kind == "vector"]
        digest = hashlib.blake2b(digest_size=8)
        episode = self.read(i, vectors)
        if not vectors and not self.spec.action.size:
            first = [self.frames(c.name, i, [0]) for c in self.spec.observations if c.kind == "image"]
            arrays = first or list(self.read(i).observations.values())
        else:
            arrays = [episode.actions, *(episode.observations[n] for n in vectors)]
        for array in arrays:
            digest.update(f"{array.shape};".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _open_ours(self) -> None:
        path = self.path / layout.OURS
        ours = read_json(path)
        if ours.get("format") != layout.FORMAT:
            raise DataError(f"{path}: not written by foretell")
        if not isinstance(ours.get("version"), int) or ours["version"] > layout.FORMAT_VERSION:
            raise DataError(
                f"{path}: store version {layout.FORMAT_VERSION} expected, got {ours.get('version')}; upgrade foretell"
            )
        with reading(path):
            try:
                self.spec = Spec.from_json(ours["spec"])
                self._streams = layout.streams_of(self.spec, ours["images"])
            except SpecError as error:
                raise DataError(f"{path}: {error}") from error
            self.metadata = dict(ours["metadata"])
        self.skipped = ()

    def _gathered(self, info: dict[str, Any]) -> tuple[list[_Place], list[int]]:
        """The episodes that info.json counts; every file that they name is there and looks whole."""
        total = info["total_episodes"]
        videos = {n: s.key for n, s in self._streams.items() if s.source == "video"}
        places: list[_Place] = []
        lengths: list[int] = []
        first: dict[Path, int] = {}
        for path in sorted((self.path / "meta" / "episodes").glob("*/*.parquet")):
            check_parquet(path)
            with reading(path):
                file = pq.ParquetFile(path)
                wanted = [n for n in file.schema_arrow.names if not n.startswith("stats/")]
                rows = file.read(columns=wanted, use_threads=False).select(wanted).to_pylist()
                for row in sorted(rows, key=lambda r: int(r["episode_index"])):
                    if self._ours and row["episode_index"] >= total:
                        continue
                    place = self._place(row, info, videos, first)
                    places.append(place)
                    lengths.append(int(row["length"]))
        if len(places) != total:
            raise DataError(
                f"{self.path / layout.INFO}: {total} episodes expected, got {len(places)} in {self.path}/meta/episodes"
            )
        order = sorted(range(total), key=lambda k: places[k].number)
        places, lengths = [places[k] for k in order], [lengths[k] for k in order]
        for data in {p.data for p in places}:
            check_parquet(data)
        for video in {file for p in places for file, _ in p.videos.values()}:
            check_mp4(video)
        return places, lengths

    def _place(
        self, row: dict[str, Any], info: dict[str, Any], videos: dict[str, str], first: dict[Path, int]
    ) -> _Place:
        def chunk(kind: str) -> dict[str, int]:
            return {part: int(row[f"{kind}/{part}"]) for part in ("chunk_index", "file_index")}

        data = layout.file_path(self.path, info["data_path"], **chunk("data"))
        start, stop = int(row["dataset_from_index"]), int(row["dataset_to_index"])
        if stop - start != int(row["length"]) or stop <= start:
            raise DataError(f"{self.path}: episode {row['episode_index']}: length {row['length']} and rows disagree")
        return _Place(
            number=int(row["episode_index"]),
            data=data,
            row=start - first.setdefault(data, start) if self._ours else None,
            videos={
                name: (
                    layout.file_path(self.path, info["video_path"], video_key=key, **chunk(f"videos/{key}")),
                    float(row[f"videos/{key}/from_timestamp"]),
                )
                for name, key in videos.items()
            },
            digest=str(row["foretell/digest"]) if self._ours else "",
            group=str(row.get("foretell/group") or "") if self._ours else "",
        )

    def _number(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.path}: episode {i} of {len(self)}")
        return int(i) % len(self)

    def _columns(self, channels: Sequence[Channel], i: int) -> list[str]:
        columns: list[str] = []
        for channel in channels:
            stream = self._streams[channel.name]
            columns += [stream.key] if stream.source != "video" else []
            columns += [stream.valid] if stream.valid is not None else []
        columns += [layout.ACTION] if self.spec.action.size else []
        if i < len(self._places):
            columns += [layout.TIME] if self._has_times else []
            columns += ["timestamp"] if not self._ours else []
        return columns

    def _table(self, i: int, columns: Sequence[str], start: int, stop: int) -> pa.Table:
        """Rows start..stop of an episode, with its times if a journal has them."""
        if i >= len(self._places):
            table = self._journal.table(self._pending[i - len(self._places)])
            with reading(self._journal.path):
                times = [layout.TIME] * (layout.TIME in table.column_names)
                return table.select([*columns, *times]).slice(start, stop - start)
        place = self._places[i]
        row, steps = place.row, int(self.lengths[i])
        if row is None:
            row, end = self._reader.episode_range(place.data, place.number)
            if end - row != steps:
                raise DataError(f"{place.data}: {steps} rows of episode {place.number} expected, got {end - row}")
        return self._reader.rows(place.data, columns, row + start, row + stop)

    def _images(self, channel: Channel, i: int, steps: NDArray[np.int64], table: pa.Table | None) -> NDArray[np.uint8]:
        """Frames of an episode: from `table`, whose rows `steps` index, or from its video."""
        where = f"{self.path}: episode {i}: {channel.name}"
        stream = self._streams[channel.name]
        if stream.source == "video":
            source: Path | bytes
            if i < len(self._places):
                source, start = self._places[i].videos[channel.name]
            else:
                source, start = self._journal.part(self._pending[i - len(self._places)], f"video:{channel.name}"), 0.0
            return decode_mp4(source, steps, start=start, hz=self.spec.hz, shape=channel.shape, where=where)
        assert table is not None
        column = table.column(stream.key)
        if pa.types.is_struct(column.type):
            with reading(self.path):
                column = pc.struct_field(column, "bytes")
        array = column.combine_chunks()
        if not (pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)):
            raise DataError(f"{where}: the bytes of one image per step expected in {stream.key}, got {array.type}")
        if array.null_count:
            step = int(np.flatnonzero(array.is_null())[0])
            raise DataError(
                f"{where}: the bytes of one image per step expected in {stream.key}, got none at step {step}"
            )
        encoded = [memoryview(array[int(step)].as_buffer()) for step in steps]
        return decode_images(encoded, channel.shape, lambda k: f"{where}: step {steps[k]}")
