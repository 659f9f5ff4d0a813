"""Windows a second from the store's cache, beside a plain gather from the same memory map in the same run."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.result import Options, Row, median_interval, run
from foretell.episodes.store import EpisodeStore
from foretell.episodes.windows import Windows
from foretell.episodes.writer import EpisodeWriter
from foretell.spec import Channel, Episode, Spec

LENGTH, BATCH, STEPS = 4, 64, 100


def measure(pixels: int, options: Options) -> Iterator[Row]:
    """Random windows of 4 frames of pixels x pixels x 3 in batches of 64, one process and one thread."""
    torch.set_num_threads(1)
    frames = (40_000 if pixels <= 64 else 6_000) // (20 if options.quick else 1)
    repeats = 3 if options.quick else 15
    seconds = 0.1 if options.quick else 0.6
    with tempfile.TemporaryDirectory() as folder:
        store = _recorded(Path(folder) / "store", pixels, frames // STEPS)
        windows = Windows(store, length=LENGTH)
        (file,) = windows.cache.path.glob("image.bin")
        flat = np.memmap(file, np.uint8, "r").reshape(-1, pixels, pixels, 3)
        rng = np.random.default_rng(0)

        def ours() -> object:
            return windows.batch(rng.integers(0, len(windows), BATCH)).observations["image"]

        def plain() -> object:
            starts = rng.integers(0, len(flat) - LENGTH + 1, BATCH)
            return np.stack([flat[s : s + LENGTH] for s in starts])

        for warm in (ours, plain):
            _rate(warm, seconds)
        pairs = [(_rate(ours, seconds), _rate(plain, seconds)) for _ in range(repeats)]
    value, interval = median_interval([p[0] for p in pairs])
    yield Row(
        id=f"data_loading.windows_per_second_{pixels}",
        value=value,
        interval=interval,
        n=repeats,
        unit="windows/s",
        baselines={"memory_map": float(np.median([p[1] for p in pairs]))},
    )


def _recorded(path: Path, pixels: int, episodes: int) -> EpisodeStore:
    """A store of flat pictures with a moving square: the content does not matter once decoded."""
    spec = Spec(observations=(Channel(name="image", kind="image", shape=(pixels, pixels, 3)),))
    side = pixels // 8
    with EpisodeWriter(path, spec) as writer:
        for i in range(episodes):
            frames = np.full((STEPS, pixels, pixels, 3), 200, np.uint8)
            for t in range(STEPS):
                at = (7 * i + t) % (pixels - side)
                frames[t, at : at + side, at : at + side] = (i % 256, t, 0)
            writer.append(Episode(observations={"image": frames}, actions=np.zeros((STEPS - 1, 0), np.float32)))
    return EpisodeStore(path)


def _rate(batch: Callable[[], object], seconds: float) -> float:
    """Windows a second over at least `seconds`; each batch is dropped before the next, as training does."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        batch()
        count += BATCH
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    ids = {pixels: f"data_loading.windows_per_second_{pixels}" for pixels in (64, 224)}
    run("data_loading", {row: functools.partial(measure, pixels) for pixels, row in ids.items()})
