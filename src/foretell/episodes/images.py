"""Lossless images: frames to PNG bytes and back."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from foretell.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_AT_ONCE = 64
_FORMATS = ("PNG", "JPEG", "WEBP")


def encode_png(frames: NDArray[np.uint8]) -> list[bytes]:
    """PNG bytes of each of `frames` (n, H, W, C) uint8, C from 1 to 4; decoding gives the same bytes back.

    Every row is stored as its difference from the row above (filter 2 of the PNG standard, ISO/IEC 15948),
    the cheapest filter that numpy computes for all frames at once.
    """
    count, height, width, planes = frames.shape
    rows = np.empty((count, height, 1 + width * planes), np.uint8)
    flat = frames.reshape(count, height, width * planes)
    rows[:, :, 0] = 2
    rows[:, 0, 1:] = flat[:, 0]
    np.subtract(flat[:, 1:], flat[:, :-1], out=rows[:, 1:, 1:])
    start = _start(height, width, planes)
    strategy = _strategy(rows[0]) if count else zlib.Z_RLE
    return [start + _chunk(b"IDAT", _deflate(row, strategy)) + _END for row in rows]


def decode_images(
    encoded: Sequence[bytes | memoryview], shape: tuple[int, ...], where: Callable[[int], str]
) -> NDArray[np.uint8]:
    """Frames (n, H, W, C) from PNG, JPEG or WebP bytes.

    Raises DataError, naming `where(i)`, if the i-th is damaged, has more than 8 bits a colour or another size.
    """
    frames = np.empty((len(encoded), *shape), np.uint8)
    for start in range(0, len(encoded), _AT_ONCE):
        part = range(start, min(start + _AT_ONCE, len(encoded)))
        known = _decode_own([encoded[i] for i in part], frames[part.start : part.stop], shape)
        for i in part:
            if i - start not in known:
                frames[i] = _decode_any(encoded[i], shape, where(i))
    return frames


def _decode_own(encoded: Sequence[bytes | memoryview], out: NDArray[np.uint8], shape: tuple[int, ...]) -> set[int]:
    """Decode into `out` those that `encode_png` wrote, twice as fast as a general decoder; returns which."""
    height, width, planes = shape
    if planes not in _COLOUR_TYPE:
        return set()
    size = height * (1 + width * planes)
    rows = np.empty((len(encoded), size), np.uint8)
    start = _start(height, width, planes)
    known = []
    for i, data in enumerate(encoded):
        view = memoryview(data).cast("B")
        end = len(view) - len(_END) - 4
        if end < 41 or view[:33] != start or bytes(view[37:41]) != b"IDAT" or view[end + 4 :] != _END:
            continue
        length, check = int.from_bytes(view[33:37], "big"), int.from_bytes(view[end : end + 4], "big")
        if length != end - 41 or zlib.crc32(view[37:end]) != check:
            continue
        try:
            inflated = zlib.decompress(view[41:end], 15, size)
        except zlib.error:
            continue
        if len(inflated) == size:
            rows[i] = np.frombuffer(inflated, np.uint8)
            known.append(i)
    lines = rows.reshape(len(encoded), height, -1)
    flat = out.reshape(len(encoded), height, -1)
    flat[:, 0] = lines[:, 0, 1:]
    for k in range(1, height):
        np.add(flat[:, k - 1], lines[:, k, 1:], out=flat[:, k])
    return {i for i in known if (lines[i, :, 0] == 2).all()}


def _decode_any(data: bytes | memoryview, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.size != (shape[1], shape[0]):
                raise DataError(
                    f"{where}: an image of {shape[0]} x {shape[1]} expected, got {image.size[1]} x {image.size[0]}"
                )
            if image.mode.startswith("I") or image.mode == "F":
                raise DataError(f"{where}: 8 bits a colour expected, got an image of mode {image.mode}")
            mode = _MODES.get(shape[2], "RGB")
            return np.asarray(image if image.mode == mode else image.convert(mode)).reshape(shape)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        reason = "of no known kind" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{where}: damaged image ({reason})") from error


def _strategy(rows: NDArray[np.uint8]) -> int:
    # Run lengths are fast on flat pictures and on noise, and poor where rows repeat a pattern (gradients).
    runs = len(_deflate(rows, zlib.Z_RLE))
    return zlib.Z_RLE if runs <= 1.25 * len(_deflate(rows, zlib.Z_DEFAULT_STRATEGY)) else zlib.Z_DEFAULT_STRATEGY


def _deflate(rows: NDArray[np.uint8], strategy: int) -> bytes:
    deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 9, strategy)
    return deflate.compress(rows.data) + deflate.flush()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _start(height: int, width: int, planes: int) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[planes], 0, 0, 0))


_END = _chunk(b"IEND", b"")
