"""Lossy images: frames to mp4 (H.264), several episodes joined in one file, and the frames asked for back."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from foretell.errors import DataError

CODEC = "h264"
_OPTIONS = {"crf": "18", "preset": "veryfast", "g": "8", "bf": "0", "threads": "1"}
_GAP = 24
"""Frames between two wanted ones beyond which seeking beats decoding what lies between."""


def pixel_format(shape: tuple[int, ...]) -> str:
    """yuv420p, which every player reads; yuv444p for the odd sizes that it cannot hold."""
    return "yuv420p" if shape[0] % 2 == 0 and shape[1] % 2 == 0 else "yuv444p"


def encode_mp4(frames: NDArray[np.uint8], hz: float) -> bytes:
    """An mp4 of `frames` (n, H, W, 1 or 3) uint8 at `hz` frames a second; lossy, a key frame at least every 8."""
    rate = _rate(hz)
    buffer = io.BytesIO()
    if frames.shape[3] == 1:
        frames = np.repeat(frames, 3, axis=3)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format(frames.shape[1:])
        stream.codec_context.time_base = 1 / rate
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def join_mp4(parts: Iterable[tuple[bytes, int]], out: Path, hz: float) -> None:
    """Write the mp4s in `parts` (bytes, number of frames), all from `encode_mp4`, one after the other to `out`."""
    rate = _rate(hz)
    offset = 0
    with av.open(str(out), "w", format="mp4") as container:
        stream: Any = None
        for data, frames in parts:
            with av.open(io.BytesIO(data), "r") as part:
                source = part.streams.video[0]
                if stream is None:
                    stream = container.add_stream_from_template(source)
                assert source.time_base is not None
                shift = int(Fraction(offset) / rate / source.time_base)
                for packet in part.demux(source):
                    if packet.pts is None:
                        continue
                    packet.pts += shift
                    packet.dts = packet.pts
                    packet.stream = stream
                    container.mux(packet)
            offset += frames


def decode_mp4(
    source: Path | bytes,
    steps: Sequence[int] | NDArray[np.int64],
    *,
    start: float,
    hz: float,
    shape: tuple[int, ...],
    where: str,
) -> NDArray[np.uint8]:
    """Frames (n, *shape) at ascending `steps` of the stretch of video that begins at `start` seconds.

    Decodes from the key frame before each run of steps to its last one, and nothing else.
    Raises DataError, naming `where`, if the video is damaged, of another size, or lacks a step.
    """
    wanted, back = np.unique(np.asarray(steps, np.int64), return_inverse=True)
    frames = np.empty((len(wanted), *shape), np.uint8)
    runs = np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) > _GAP) + 1) if len(wanted) else []
    opened: str | BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        with av.open(opened) as container:
            stream = container.streams.video[0]
            if (stream.height, stream.width) != shape[:2]:
                raise DataError(
                    f"{where}: a video of {shape[0]} x {shape[1]} expected, got {stream.height} x {stream.width}"
                )
            stream.codec_context.thread_count = 1
            for run in runs:
                # Key frames are indexed by decoding time, which may lie before the time shown: look further back.
                for earlier in (0.0, 2.0, float("inf")):
                    if _decode_run(container, stream, wanted[run], frames[run[0] : run[-1] + 1], start, hz, earlier):
                        break
                else:
                    raise DataError(f"{where}: steps {wanted[run[0]]} to {wanted[run[-1]]} are not all in the video")
    except (FFmpegError, OSError, IndexError) as error:
        raise DataError(f"{where}: damaged or unreadable video ({error})") from error
    return frames if len(back) == len(wanted) else frames[back]


def check_mp4(path: Path) -> None:
    """Raise DataError if the mp4 at `path` is missing, truncated or something else; reads its box headers only."""
    boxes = set()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            at = 0
            while at < size:
                file.seek(at)
                head = file.read(16)
                length, kind = struct.unpack(">I4s", head[:8]) if len(head) >= 8 else (0, b"")
                if length == 1 and len(head) == 16:
                    (length,) = struct.unpack(">Q", head[8:])
                if length == 0 and kind == b"mdat":
                    length = size - at
                if length < 8 or at + length > size:
                    raise DataError(f"{path}: truncated mp4, its last part should end at byte {at + max(length, 8)}")
                boxes.add(kind)
                at += length
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if not {b"moov", b"mdat"} <= boxes:
        raise DataError(f"{path}: not a complete mp4")


def _decode_run(
    container: Any,
    stream: Any,
    wanted: NDArray[np.int64],
    out: NDArray[np.uint8],
    start: float,
    hz: float,
    earlier: float,
) -> bool:
    scaler = VideoReformatter()
    place = {int(step): i for i, step in enumerate(wanted)}
    target = max(0.0, start + (int(wanted[0]) + 0.25) / hz - earlier)
    container.seek(int(target / stream.time_base), stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        step = round((float(frame.pts * stream.time_base) - start) * hz)
        i = place.pop(step, None)
        if i is not None:
            out[i] = scaler.reformat(frame, format="rgb24").to_ndarray()[:, :, : out.shape[3]]
        if not place or step > wanted[-1]:
            break
    return not place


def _rate(hz: float) -> Fraction:
    return Fraction(hz).limit_denominator(100_000)
