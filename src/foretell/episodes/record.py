"""Records episodes: from any source into a store, and from any Gymnasium environment under random actions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from foretell.episodes.writer import EpisodeWriter
from foretell.errors import SpecError
from foretell.spec import ActionSpec, Channel, Episode, Spec


def record(
    source: tuple[Spec, Iterable[Episode]],
    out: str | Path,
    *,
    episodes: int,
    images: Literal["png", "mp4"] = "png",
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write the first `episodes` of `source` to a new store at `out`; returns how many there were.

    source: a spec and its episodes, as `gymnasium_episodes` gives them. progress: called with the number recorded.
    Raises DataError if `out` exists and is not empty or cannot be written, SpecError if an episode does not fit.
    """
    spec, stream = source
    with EpisodeWriter(out, spec, images=images, metadata=metadata) as writer:
        for episode in itertools.islice(stream, episodes):
            writer.append(episode)
            if progress is not None:
                progress(len(writer))
    return len(writer)


def gymnasium_episodes(
    env_id: str, count: int, seed: int, *, first: int = 0, max_steps: int = 1000, **options: Any
) -> tuple[Spec, Iterator[Episode]]:
    """Spec of a Gymnasium environment and episodes `first` to first + count - 1 of uniformly random actions; episode i
    depends on (seed, i) alone.

    Observations: a Box of 8-bit (H, W) or (H, W, 1 to 4) is an image, any other Box a vector, flattened; a Discrete
    one is one-hot; a Dict holds one channel each. Actions: a Box, flattened, with its bounds; a Discrete one is
    one-hot, bounds 0 and 1. A `notice` in the environment's metadata becomes the spec's. An episode ends when the
    environment says so, or after `max_steps` actions. options go to the environment. Raises SpecError for an id, an
    option or a space that does not fit.
    """
    try:
        env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **options)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, KeyError) as error:
        raise SpecError(f"{env_id}: no such environment, or it cannot be made: {_line(error)}") from error
    space = env.observation_space
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    hz = float(env.metadata.get("render_fps") or 1.0)
    spec = Spec(
        observations=tuple(_channel(env_id, name, part) for name, part in parts.items()),
        action=_actions(env_id, env.action_space),
        hz=hz,
        notice=str(env.metadata.get("notice") or ""),
    )

    def run() -> Iterator[Episode]:
        try:
            for i in range(first, first + count):
                yield _episode(env, parts, spec, np.random.SeedSequence([seed, i]), max_steps)
        finally:
            env.close()

    return spec, run()


def _episode(
    env: gymnasium.Env[Any, Any], parts: Mapping[str, Any], spec: Spec, seeds: np.random.SeedSequence, max_steps: int
) -> Episode:
    start, act = (int(s) for s in seeds.generate_state(2))
    env.action_space.seed(act)
    seen, _ = env.reset(seed=start)
    observations, actions = [seen], []
    for _ in range(max_steps):
        action = env.action_space.sample()
        seen, _, terminated, truncated, _ = env.step(action)
        observations.append(seen)
        actions.append(_encoded(env.action_space, action))
        if terminated or truncated:
            break
    nested = isinstance(env.observation_space, spaces.Dict)
    arrays = {
        name: np.stack([_encoded(part, seen[name] if nested else seen) for seen in observations]).reshape(
            len(observations), *spec.channel(name).shape
        )
        for name, part in parts.items()
    }
    return Episode(observations=arrays, actions=np.stack(actions).reshape(len(actions), -1))


def _channel(env_id: str, name: str, space: spaces.Space[Any]) -> Channel:
    if isinstance(space, spaces.Discrete):
        return Channel(name=name, kind="vector", shape=(int(space.n),))
    if not isinstance(space, spaces.Box):
        raise SpecError(f"{env_id}: observation {name} must be a Box, a Discrete or a Dict of these, got {space}")
    shape = space.shape
    if space.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] <= 4)):
        return Channel(name=name, kind="image", shape=(*shape, 1)[:3])
    return Channel(name=name, kind="vector", shape=(max(1, int(np.prod(shape))),))


def _actions(env_id: str, space: spaces.Space[Any]) -> ActionSpec:
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
        low, high = (0.0,) * size, (1.0,) * size
    elif isinstance(space, spaces.Box):
        low, high = tuple(space.low.ravel().tolist()), tuple(space.high.ravel().tolist())
        size = len(low)
    else:
        raise SpecError(f"{env_id}: actions must be a Box or a Discrete space, got {space}")
    return ActionSpec(names=tuple(f"action_{i}" for i in range(size)), low=low, high=high)


def _encoded(space: spaces.Space[Any], value: Any) -> NDArray[Any]:
    if isinstance(space, spaces.Discrete):
        hot = np.zeros(int(space.n), np.float32)
        hot[int(value) - int(space.start)] = 1
        return hot
    return np.asarray(value)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
