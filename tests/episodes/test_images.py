"""PNG bytes: lossless, standard, and never trusted."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from foretell.episodes.images import decode_images, encode_png
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import DataError
from tests.episodes.samples import SPEC, episode, same

FRAMES = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    elements=st.integers(0, 255),
)


def where(i: int) -> str:
    return f"frame {i}"


@settings(deadline=None)
@given(frames=FRAMES)
def test_frames_survive_and_other_programs_read_them(frames):
    encoded = encode_png(frames)
    assert np.array_equal(decode_images(encoded, frames.shape[1:], where), frames)
    for data, frame in zip(encoded, frames, strict=True):
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert np.array_equal(np.asarray(image).reshape(frame.shape), frame)


@pytest.mark.parametrize("planes", [1, 3, 4])
@pytest.mark.parametrize("kind", ["flat", "noise", "ramp"])
def test_pngs_of_other_programs_are_read(planes, kind):
    frame = {
        "flat": np.full((20, 30, planes), 9, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (20, 30, planes), np.uint8),
        "ramp": np.broadcast_to(np.arange(30, dtype=np.uint8)[None, :, None] * 4, (20, 30, planes)),
    }[kind]
    buffer = io.BytesIO()
    Image.fromarray(frame[..., 0] if planes == 1 else frame).save(buffer, "PNG")
    mixed = [buffer.getvalue(), *encode_png(np.ascontiguousarray(frame[None]))]
    assert (decode_images(mixed, frame.shape, where) == frame).all()


@settings(deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless(data):
    frames = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
    encoded = encode_png(frames)
    at = data.draw(st.integers(0, len(encoded[1]) - 1))
    damaged = bytearray(encoded[1])
    damaged[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DataError):
        # Where a decoder may pass over the damage (the ending, a checksum), the pixels are right.
        assert np.array_equal(decode_images([encoded[0], bytes(damaged)], (6, 5, 3), where), frames)


def test_other_sizes_and_depths_are_named():
    with pytest.raises(DataError, match="frame 0: an image of 6 x 5 expected, got 5 x 6"):
        decode_images(encode_png(np.zeros((1, 5, 6, 3), np.uint8)), (6, 5, 3), where)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(buffer, "PNG")
    with pytest.raises(DataError, match="8 bits a colour expected"):
        decode_images([buffer.getvalue()], (5, 6, 1), where)
    with pytest.raises(DataError, match="frame 0: damaged image"):
        decode_images([b"GIF89a"], (5, 6, 1), where)


def test_our_own_pictures_take_the_fast_way_out_of_a_store(tmp_path, monkeypatch):
    with EpisodeWriter(tmp_path / "store", SPEC) as writer:
        writer.append(episode(0))
    monkeypatch.setattr("foretell.episodes.images.Image.open", None)
    assert same(EpisodeStore(tmp_path / "store")[0], episode(0))
