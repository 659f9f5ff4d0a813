"""Recording Gymnasium environments under random actions."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from foretell.episodes.record import gymnasium_episodes, record
from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError
from tests.episodes.samples import same


class Rig(gymnasium.Env):
    """A camera, a gauge and a switch; ends after five actions."""

    metadata = {"render_fps": 25, "render_modes": [], "notice": "A toy."}  # noqa: RUF012
    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (8, 6), np.uint8),
            "gauge": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
            "switch": spaces.Discrete(3, start=1),
        }
    )
    action_space = spaces.Discrete(4)

    def seen(self) -> dict[str, object]:
        return {
            "camera": np.full((8, 6), self.clock, np.uint8),
            "gauge": self.np_random.normal(size=(2, 2)),
            "switch": 1 + self.clock % 3,
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self.seen(), {}

    def step(self, action):
        self.clock += 1
        return self.seen(), 0.0, self.clock >= 5, False, {}


class Text(Rig):
    observation_space = spaces.Text(4)


class Many(Rig):
    action_space = spaces.MultiDiscrete([2, 2])


for kind in (Rig, Text, Many):
    gymnasium.register(f"foretell-test/{kind.__name__}-v0", kind, disable_env_checker=True)


def test_boxes_become_vectors_and_bounds(tmp_path):
    source = gymnasium_episodes("Pendulum-v1", 3, 0)
    reported: list[int] = []
    assert record(source, tmp_path / "store", episodes=3, progress=reported.append) == 3
    assert reported == [1, 2, 3]
    store = EpisodeStore(tmp_path / "store")
    assert store.lengths.tolist() == [201] * 3
    assert store.spec.hz == 30
    assert (store.spec.action.low, store.spec.action.high) == ((-2.0,), (2.0,))
    _, again = gymnasium_episodes("Pendulum-v1", 3, 0)
    assert all(same(a, b) for a, b in zip(store, again, strict=True))
    _, other = gymnasium_episodes("Pendulum-v1", 1, 1)
    assert not same(store[0], next(other))


def test_dictionaries_images_and_choices(tmp_path):
    spec, episodes = gymnasium_episodes("foretell-test/Rig-v0", 2, 3)
    assert [(c.name, c.kind, c.shape) for c in spec.observations] == [
        ("camera", "image", (8, 6, 1)),
        ("gauge", "vector", (4,)),
        ("switch", "vector", (3,)),
    ]
    assert (spec.action.size, spec.action.low, spec.action.high) == (4, (0.0,) * 4, (1.0,) * 4)
    assert spec.notice == "A toy."
    record((spec, episodes), tmp_path / "store", episodes=9)
    first, second = EpisodeStore(tmp_path / "store")
    assert first.observations["camera"][:, 0, 0, 0].tolist() == list(range(6))
    assert first.observations["switch"].argmax(1).tolist() == [0, 1, 2, 0, 1, 2]
    assert (first.actions.sum(1) == 1).all()
    assert not np.array_equal(first.observations["gauge"], second.observations["gauge"])


def test_endless_environments_are_cut():
    _, episodes = gymnasium_episodes("Pendulum-v1", 1, 0, max_steps=7)
    assert len(next(episodes)) == 8


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Nothing-v0", {}, "Nothing-v0: no such environment"),
        ("Pendulum-v99", {}, "Pendulum-v99: no such environment"),
        ("no spaces allowed", {}, "no such environment"),
        ("nowhere:Nothing-v0", {}, "no such environment"),
        ("Pendulum-v1", {"weight": 3}, "Pendulum-v1: no such environment, or it cannot be made"),
        ("foretell-test/Text-v0", {}, "must be a Box, a Discrete or a Dict of these, got Text"),
        ("foretell-test/Many-v0", {}, "actions must be a Box or a Discrete space, got MultiDiscrete"),
    ],
)
def test_what_cannot_be_recorded_is_named(name, options, words):
    with pytest.raises(SpecError, match=words) as caught:
        gymnasium_episodes(name, 1, 0, **options)
    assert "\n" not in str(caught.value)
