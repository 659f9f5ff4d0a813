"""The LeRobotDataset v3.0 layout: file names, features and `meta/info.json`, and the spec that they stand for.

Beside what LeRobot reads, a store of ours has `meta/foretell.json` (the spec, the recording's metadata) and, as
ordinary features of the tables:

- `valid.CHANNEL`: bool, one per field (one per image): False where the value is missing.
- `time`: the episode's own times in their own type, if it has any; `timestamp` is frame / fps, as LeRobot wants it.
- `valid.action`: False in an episode's last row. An episode has one action fewer than steps; its last row
  repeats the action before, so that every row holds one that could have been taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foretell.episodes.table import read_json
from foretell.episodes.video import CODEC, pixel_format
from foretell.errors import DataError, SpecError
from foretell.spec import ActionSpec, Channel, Spec

CODEBASE_VERSION = "v3.0"
FORMAT, FORMAT_VERSION = "foretell-episodes", 1
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, OURS, TASKS, STATS = "meta/info.json", "meta/foretell.json", "meta/tasks.parquet", "meta/stats.json"
FILES_PER_CHUNK = 1000
TIME, VALID_ACTION, ACTION = "time", "valid.action", "action"
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")

Source = Literal["image", "video", "values"]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Where a channel's values are: its feature `key`, how they are held, its mask's column (None: it has none)."""

    key: str
    source: Source
    valid: str | None = None


def mask_key(channel: Channel) -> str:
    """The column of a channel's mask."""
    return f"valid.{channel.name}"


def streams_of(spec: Spec, images: Literal["png", "mp4"]) -> dict[str, Stream]:
    """Where our stores keep each channel; SpecError where two channels would share a feature or cannot be held."""
    streams: dict[str, Stream] = {}
    for channel in spec.channels:
        name, source = channel.name, "values"
        if channel.kind == "image":
            source = "image" if images == "png" else "video"
            planes = {"png": (1, 2, 3, 4), "mp4": (1, 3)}[images]
            if channel.shape[2] not in planes:
                raise SpecError(
                    f"channel {name}: {images} holds {' or '.join(map(str, planes))} colour planes,"
                    f" got {channel.shape[2]}"
                )
        if name.startswith("observation."):
            key = name
        elif channel in spec.quantities:
            key = f"quantity.{name}"
        else:
            key = f"observation.images.{name}" if channel.kind == "image" else f"observation.{name}"
        streams[name] = Stream(key=key, source=source, valid=mask_key(channel))  # type: ignore[arg-type]
    keys = [s.key for s in streams.values()]
    if len(set(keys)) != len(keys) or ACTION in streams:
        raise SpecError(f"channels {sorted(streams)} cannot be told apart in a store; rename one")
    return streams


def features_of(spec: Spec, streams: Mapping[str, Stream], dtypes: Mapping[str, str]) -> dict[str, Any]:
    """The `features` of info.json; `dtypes` by feature key, for all but images."""

    def numbers(dtype: str, shape: tuple[int, ...], names: list[str] | None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": names}

    features: dict[str, Any] = {}
    for channel in spec.channels:
        stream, shape = streams[channel.name], channel.shape
        if stream.source == "values":
            features[stream.key] = numbers(dtypes[stream.key], shape, list(channel.fields))
        else:
            features[stream.key] = {
                "dtype": stream.source,
                "shape": list(shape),
                "names": ["height", "width", "channels"],
            }
        if stream.source == "video":
            features[stream.key]["info"] = {
                "video.height": shape[0],
                "video.width": shape[1],
                "video.codec": CODEC,
                "video.pix_fmt": pixel_format(shape),
                "video.is_depth_map": False,
                "video.fps": fps(spec),
                "video.channels": 3,
                "has_audio": False,
            }
        assert stream.valid is not None
        fields = (1,) if channel.kind == "image" else (shape[0],)
        features[stream.valid] = numbers("bool", fields, None)
    if spec.action.size:
        features[ACTION] = numbers(dtypes[ACTION], (spec.action.size,), list(spec.action.names))
        features[VALID_ACTION] = numbers("bool", (1,), None)
    if TIME in dtypes:
        features[TIME] = numbers(dtypes[TIME], (1,), None)
    features["timestamp"] = numbers("float32", (1,), None)
    for key in BOOKKEEPING[1:]:
        features[key] = numbers("int64", (1,), None)
    return features


def info_of(spec: Spec, features: Mapping[str, Any], episodes: int, frames: int, file_mb: float) -> dict[str, Any]:
    """The content of meta/info.json."""
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": None,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": math.ceil(file_mb),
        "video_files_size_in_mb": math.ceil(file_mb),
        "fps": fps(spec),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(f["dtype"] == "video" for f in features.values()) else None,
        "features": dict(features),
    }


def fps(spec: Spec) -> int | float:
    """Steps per second as LeRobot writes it: whole where it can be."""
    return int(spec.hz) if spec.hz == int(spec.hz) else spec.hz


def file_path(root: Path, template: object, **values: object) -> Path:
    """A file of the store from a template of info.json; DataError where that leaves the store or is no template."""
    try:
        path = root / str(template).format(**values)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{root / INFO}: {template!r} is not a path template of LeRobotDataset v3.0") from error
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{root / INFO}: {template!r} points outside the dataset")
    return path


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json of a version that we read; DataError otherwise."""
    info = read_json(root / INFO)
    version = str(info.get("codebase_version"))
    if not version.startswith("v3."):
        raise DataError(
            f"{root / INFO}: LeRobotDataset v3 expected, got {version};"
            " convert it with lerobot's convert_dataset_v21_to_v30 first"
        )
    for key, kind in (("fps", (int, float)), ("features", dict), ("total_episodes", int), ("data_path", str)):
        if not isinstance(info.get(key), kind):
            raise DataError(f"{root / INFO}: {key} is missing or of the wrong type, got {info.get(key)!r}")
    return info


def derive(root: Path, info: Mapping[str, Any]) -> tuple[Spec, dict[str, Stream], tuple[str, ...]]:
    """Spec and streams of a dataset that others recorded, and the features that no channel can hold.

    Images and float features named `observation...` are observed; other float features (rewards and the like)
    are quantities, which a model never sees. Actions are unbounded: the format does not say their bounds.
    """
    observations: list[Channel] = []
    quantities: list[Channel] = []
    streams: dict[str, Stream] = {}
    skipped: list[str] = []
    action = ActionSpec()
    for key, feature in info["features"].items():
        try:
            dtype, shape = str(feature["dtype"]), tuple(int(n) for n in feature["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{root / INFO}: feature {key}: dtype and shape expected, got {feature!r}") from error
        if key in BOOKKEEPING:
            continue
        if key == ACTION and np.dtype(dtype).kind in "fiu" and len(shape) == 1:
            action = ActionSpec(names=_names(feature, key, shape[0]))
            continue
        channel = _channel(key, feature, dtype, shape)
        if channel is None:
            skipped.append(key)
            continue
        image = dtype in ("image", "video")
        streams[channel.name] = Stream(key=key, source=dtype if image else "values")  # type: ignore[arg-type]
        (observations if image or key.startswith("observation") else quantities).append(channel)
    if not observations:
        seen = [c for c in quantities if not c.name.startswith("next.")]
        observations, quantities = seen, [c for c in quantities if c not in seen]
    try:
        spec = Spec(
            observations=tuple(observations),
            action=action,
            hz=float(info["fps"]),
            quantities=tuple(c for c in quantities if c.kind == "vector"),
        )
    except SpecError as error:
        raise DataError(f"{root / INFO}: {error}") from error
    return spec, {c.name: streams[c.name] for c in spec.channels}, tuple(skipped)


def _channel(key: str, feature: Mapping[str, Any], dtype: str, shape: tuple[int, ...]) -> Channel | None:
    name = "".join(c if c.isalnum() or c in "_-." else "_" for c in key)
    if dtype in ("image", "video"):
        return None if len(shape) != 3 or _is_depth(feature) else Channel(name=name, kind="image", shape=_hwc(feature))
    if not dtype.startswith("float") or not shape or min(shape) < 1 or len(shape) > 2:
        return None
    kind: Literal["vector", "waveform"] = "vector" if len(shape) == 1 else "waveform"
    return Channel(name=name, kind=kind, shape=shape, fields=_names(feature, name, shape[0]))


def _is_depth(feature: Mapping[str, Any]) -> bool:
    infos = [feature.get(part) or {} for part in ("info", "video_info")]
    return any(i.get("is_depth_map") or i.get("video.is_depth_map") for i in infos)


def _hwc(feature: Mapping[str, Any]) -> tuple[int, ...]:
    shape, names = tuple(int(n) for n in feature["shape"]), feature.get("names")
    first = isinstance(names, list) and len(names) == 3 and str(names[0]).lower() in ("c", "channel", "channels")
    if first or (shape[0] in (1, 3, 4) and shape[2] > 4):
        return (shape[1], shape[2], shape[0])
    return shape


def _names(feature: Mapping[str, Any], key: str, count: int) -> tuple[str, ...]:
    """Field names of a feature; repeated ones are numbered, as some datasets have two 'gripper'."""
    names: Any = feature.get("names")
    while isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    if isinstance(names, dict):
        names = list(names)
    if not isinstance(names, list) or len(names) != count:
        return tuple(f"{key}_{i}" for i in range(count))
    found: list[str] = []
    for name in map(str, names):
        again, unique = 2, name
        while unique in found:
            unique, again = f"{name}_{again}", again + 1
        found.append(unique)
    return tuple(found)
