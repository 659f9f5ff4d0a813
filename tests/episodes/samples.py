"""Small specs and episodes that the tests of this folder record."""

from __future__ import annotations

import numpy as np

from foretell.spec import ActionSpec, Channel, Episode, Spec

SPEC = Spec(
    observations=(
        Channel(name="camera", kind="image", shape=(16, 24, 3)),
        Channel(name="state", kind="vector", shape=(3,), fields=("x", "y", "z"), units=("m", "m", "rad")),
        Channel(name="pressure", kind="waveform", shape=(2, 5)),
    ),
    action=ActionSpec(names=("push", "turn"), units=("N", "rad"), low=(-1, -2), high=(1, 2)),
    hz=10,
    quantities=(Channel(name="level", kind="vector", shape=(1,)),),
)


def episode(index: int, steps: int = 12, spec: Spec = SPEC, *, gaps: bool = False, times: bool = True) -> Episode:
    """An episode of `steps` observed steps that depends on `index` alone."""
    rng = np.random.default_rng([7, index])
    observations = {}
    for channel in spec.channels:
        if channel.kind == "image":
            # Smooth, so that a lossy codec stays close to it.
            height, width, planes = channel.shape
            ramp = np.arange(height)[:, None, None] * 4 + np.arange(width)[None, :, None] * 2
            frames = ramp[None] + 3 * np.arange(steps)[:, None, None, None] + 5 * index + 9 * np.arange(planes)
            observations[channel.name] = np.abs(frames % 400 - 200).astype(np.uint8)
        else:
            dtype = np.float32 if channel.kind == "waveform" else np.float64
            observations[channel.name] = rng.normal(size=(steps, *channel.shape)).astype(dtype)
    valid = {"state": rng.random((steps, 3)) < 0.7, "camera": rng.random(steps) < 0.7} if gaps else {}
    return Episode(
        observations=observations,
        actions=rng.uniform(-1, 1, (steps - 1, spec.action.size)).astype(np.float32),
        valid=valid,
        times=2**53 + 1 + 7 * np.arange(steps, dtype=np.int64) if times else None,
    )


def same(came: Episode, expected: Episode, *, lossy: bool = False) -> bool:
    """Whether two episodes hold the same values of the same types; images nearly so if `lossy`."""
    for name, values in expected.observations.items():
        other = came.observations[name]
        if other.dtype != values.dtype or other.shape != values.shape:
            return False
        if lossy and values.dtype == np.uint8:
            if np.abs(other.astype(int) - values).mean() > 6:
                return False
        elif not np.array_equal(other, values):
            return False
    steps = len(expected)
    for name in came.valid.keys() | expected.valid.keys():
        shape = expected.observations[name].shape[: 1 if expected.observations[name].dtype == np.uint8 else 2]
        masks = [
            np.broadcast_to(m.reshape(m.shape + (1,) * (len(shape) - m.ndim)), shape)
            for m in (e.valid.get(name, np.ones(steps, np.bool_)) for e in (came, expected))
        ]
        if not np.array_equal(*masks):
            return False
    if (came.times is None) != (expected.times is None):
        return False
    if expected.times is not None and (
        came.times.dtype != expected.times.dtype or (came.times != expected.times).any()
    ):
        return False
    return came.actions.dtype == expected.actions.dtype and np.array_equal(came.actions, expected.actions)
