"""Push-T as `gym-pusht` has it, with moves relative to the finger, and scripted pushes as its behaviour.

The task: Chi et al. 2023, "Diffusion Policy" (arXiv 2303.04137). Goals of any pose, their tolerance and moves relative
to the finger: Zhou et al. 2024, "DINO-WM" (arXiv 2411.04983), whose protocol LeWM (arXiv 2603.19312) follows.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from foretell.spec import ActionSpec, Channel, Spec
from foretell.worlds.extra import needed
from foretell.worlds.simulated import SimulatedOptions

Array = NDArray[np.float64]
FIELD = 512.0
"""px, the side of the field."""
NEAR_PX, NEAR_ANGLE = 20.0, np.pi / 9
"""How close finger and block must come to where they are at the goal, all four coordinates together, and the angle."""
_REACH, _EDGE = 100.0, 20.0
"""px: the longest move, and how near to the border the finger is sent."""
_FINGER, _MIDDLE = 15.0, 150.0
"""px: the radius of the finger, and how far from the middle the block is pushed on purpose."""
_TRIES = 200
"""Of places that the block is moved to by others, at most."""


@dataclass(frozen=True, kw_only=True)
class Options(SimulatedOptions):
    """Proprioception shows where the finger is."""

    world: ClassVar[str] = "pusht"

    @property
    def spec(self) -> Spec:
        """A camera above the field, and the finger's position where asked for; moves in px, relative to the finger."""
        finger = Channel(name="finger", kind="vector", shape=(2,), fields=("x", "y"), units=("px", "px"))
        block = Channel(name="block", kind="vector", shape=(3,), fields=("x", "y", "angle"), units=("px", "px", "rad"))
        return Spec(
            observations=(self.camera, finger) if self.proprioception else (self.camera,),
            action=ActionSpec(
                names=("dx", "dy"),
                units=("px", "px"),
                low=(-_REACH, -_REACH),
                high=(_REACH, _REACH),
                safe=(0.0, 0.0),
            ),
            hz=10.0,
            quantities=(block,) if self.proprioception else (finger, block),
        )


class Simulation:
    """One field. State (7,): the finger's x, y and velocity, the block's x, y and angle."""

    def __init__(self, options: Options) -> None:
        self.spec, self._options = options.spec, options
        self._cv2 = needed("cv2", "pusht")
        # It greets on standard output.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        with warnings.catch_warnings():
            # Of packages that it imports.
            warnings.simplefilter("ignore", DeprecationWarning)
            env = needed("gym_pusht.envs.pusht", "pusht").PushTEnv
        self._env = env(obs_type="state", render_mode="rgb_array")
        # Goals are poses of any kind: how much of the author's own goal is covered is nothing that is asked for here.
        self._env._get_coverage = lambda: 0.0
        self._env.reset(seed=0)

    def reset(self, rng: np.random.Generator) -> None:
        """Finger and block somewhere, apart from each other, where the author puts them."""
        while True:
            block, finger = rng.uniform(100, 400, 2), rng.uniform(50, 450, 2)
            self.restore(np.concatenate([finger, [0, 0], block, [rng.uniform(-np.pi, np.pi)]]))
            if np.linalg.norm(self._outline()[:, 0] - finger, axis=1).min() > 2 * _FINGER:
                return

    def state(self) -> Array:
        """(7,); the block has no velocity of its own, as friction stops it within a step."""
        finger, block = self._env.agent, self._env.block
        return np.array([*finger.position, *finger.velocity, *block.position, block.angle])

    def restore(self, state: Array) -> None:
        """See `state`."""
        self._env.reset(seed=0)
        finger, block = self._env.agent, self._env.block
        finger.position, finger.velocity = tuple(state[:2]), tuple(state[2:4])
        # In this order: turning the block moves it about its centre of gravity.
        block.angle, block.position = float(state[6]), tuple(state[4:6])
        block.velocity, block.angular_velocity = (0.0, 0.0), 0.0
        self._env.space.reindex_shapes_for_body(finger)
        self._env.space.reindex_shapes_for_body(block)

    def step(self, action: Array) -> None:
        """A tenth of a second towards a place (2,) px from the finger."""
        self._env.step(np.clip(np.array(self._env.agent.position) + action, 0, FIELD))

    def seen(self) -> dict[str, NDArray[Any]]:
        """The picture, colours averaged over the pixels that one stands for."""
        surface = self._env._draw()
        width, height = surface.get_size()
        drawn = np.frombuffer(surface.get_buffer(), np.uint8).reshape(height, width, 4)
        side = self._options.size
        picture = self._cv2.resize(drawn, (side, side), interpolation=self._cv2.INTER_AREA)
        seen: dict[str, NDArray[Any]] = {"camera": np.ascontiguousarray(picture[..., 2::-1])}
        return seen | ({"finger": self.state()[:2]} if self._options.proprioception else {})

    def truth(self, state: Array) -> dict[str, Array]:
        """Finger (px) and block (px, px, rad)."""
        angle = (state[6] + np.pi) % (2 * np.pi) - np.pi
        return {"finger": state[:2], "block": np.array([state[4], state[5], angle])}

    def reached(self, state: Array, goal: Array) -> bool:
        """Finger and block within 20 px of where they are to be, together, and the angle within 20 degrees."""
        places = [0, 1, 4, 5]
        turned = (state[6] - goal[6] + np.pi) % (2 * np.pi) - np.pi
        return bool(np.linalg.norm(state[places] - goal[places]) < NEAR_PX and abs(turned) < NEAR_ANGLE)

    def pushed(self, state: Array, rng: np.random.Generator) -> Array:
        """The block 30 to 60 px elsewhere and turned by up to half a radian, apart from the finger and within the field
        or, where walls have let it through, as near to it as can be.
        """
        best, least = state, np.inf
        for _ in range(_TRIES):
            way, moved = rng.uniform(-np.pi, np.pi), state.copy()
            moved[4:6] += rng.uniform(30, 60) * np.array([np.cos(way), np.sin(way)])
            moved[6] += rng.uniform(-0.5, 0.5)
            self.restore(moved)
            outline = self._outline()[:, 0]
            outside = max(_EDGE - outline.min(), outline.max() - (FIELD - _EDGE))
            wrong = max(outside, 2 * _FINGER - np.linalg.norm(outline - state[:2], axis=1).min())
            if wrong < least:
                best, least = moved, wrong
            if wrong < 0:
                break
        self.restore(best)
        return best

    def straight(self, state: Array, goal: Array) -> Array:
        """The finger straight to where it is to be, whatever lies between."""
        return np.asarray(np.clip(goal[:2] - state[:2], -_REACH, _REACH))

    def behaviour(self, rng: np.random.Generator) -> Callable[[], Array]:
        """Pushes: to a place beside a random point of the block's outline, then through it at some angle; now and then
        somewhere else. With noise, at speeds that differ. It knows where the block is.
        """
        places: list[Array] = []
        speed, left = 0.0, 0

        def act() -> Array:
            nonlocal places, speed, left
            finger = np.array(self._env.agent.position)
            while places and np.linalg.norm(places[0] - finger) < 10:
                places = places[1:]
            if not places or left <= 0:
                places, speed, left = self._intended(rng), rng.uniform(10, 50), int(rng.integers(10, 40))
            left -= 1
            move = places[0] - finger
            move *= min(1.0, speed / max(float(np.linalg.norm(move)), 1e-9))
            return np.asarray(np.clip(move + rng.normal(0, 8, 2), -_REACH, _REACH))

        return act

    def _intended(self, rng: np.random.Generator) -> list[Array]:
        """Where the finger goes next, one place after the other."""
        if rng.random() < 0.2:
            return [rng.uniform(_EDGE, FIELD - _EDGE, 2)]
        outline = self._outline()
        centre = np.array(self._env.block.local_to_world(self._env.block.center_of_gravity))
        # Of a few pushes one that brings the block back where it has come near the border.
        for _ in range(8):
            point, out = outline[int(rng.integers(len(outline)))]
            out = out * (np.sign((point - centre) @ out) or 1.0)
            turn = rng.uniform(-0.6, 0.6)
            into = -np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ out
            if np.abs(centre + 60 * into - FIELD / 2).max() < _MIDDLE:
                break
        places = [point + out * rng.uniform(25, 60), point + into * rng.uniform(20, 140)]
        return [np.clip(p, _EDGE, FIELD - _EDGE) for p in places]

    def _outline(self) -> Array:
        """(n, 2, 2): points along the border of both bars of the block, px, and the directions across it."""
        block, found = self._env.block, []
        for shape in self._env._block_shapes:
            corners = np.array([block.local_to_world(v) for v in shape.get_vertices()])
            for one, other in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                along = (other - one) / np.linalg.norm(other - one)
                across = np.array([along[1], -along[0]])
                found += [(one + share * (other - one), across) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
        return np.array(found)
