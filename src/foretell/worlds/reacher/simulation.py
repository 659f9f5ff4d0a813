"""Reacher as `dm_control` has it (Tassa et al. 2018, "DeepMind Control Suite", arXiv 1801.00690), its target not drawn.

Goals are poses of the arm, with the tolerance and the two simulator steps an action that LeWM (arXiv 2603.19312) is
evaluated with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from foretell.spec import ActionSpec, Channel, Spec
from foretell.worlds.camera import Camera, headless
from foretell.worlds.extra import needed
from foretell.worlds.simulated import SimulatedOptions

Array = NDArray[np.float64]
NEAR = 0.05
"""rad: how close both joints must come to where they are at the goal, whole turns counted."""
REPEAT = 2
"""Steps of the simulator, 0.02 s each, an action."""


@dataclass(frozen=True, kw_only=True)
class Options(SimulatedOptions):
    """Proprioception shows the joints and their speeds."""

    world: ClassVar[str] = "reacher"
    heavy: ClassVar[bool] = True

    @property
    def spec(self) -> Spec:
        """A camera above the arm, and its joints where asked for; torques as shares of the largest."""
        joints = Channel(name="joints", kind="vector", shape=(2,), fields=("shoulder", "wrist"), units=("rad", "rad"))
        speeds = Channel(
            name="speeds", kind="vector", shape=(2,), fields=("shoulder", "wrist"), units=("rad/s", "rad/s")
        )
        return Spec(
            observations=(self.camera, joints, speeds) if self.proprioception else (self.camera,),
            action=ActionSpec(
                names=("shoulder", "wrist"), units=("", ""), low=(-1.0, -1.0), high=(1.0, 1.0), safe=(0.0, 0.0)
            ),
            hz=25.0,
            quantities=() if self.proprioception else (joints, speeds),
        )


@functools.cache
def _physics(friction: float, mass: float) -> Any:
    """One for all arms: each puts its own state in before it moves or is seen."""
    headless("reacher")
    physics = needed("dm_control.suite.reacher", "reacher").hard().physics
    physics.named.model.mat_rgba["target", "a"] = 0
    physics.model.dof_damping[:] *= friction
    physics.model.body_mass[:] *= mass
    physics.model.body_inertia[:] *= mass
    return physics


@functools.cache
def _camera(friction: float, mass: float, side: int) -> Camera:
    return Camera(_physics(friction, mass).model.ptr, "fixed", side, "reacher")


class Simulation:
    """One arm. State (4,): joints and their speeds."""

    def __init__(self, options: Options) -> None:
        self.spec, self._options = options.spec, options
        built = (options.friction, options.mass)
        self._physics, self._camera = _physics(*built), _camera(*built, options.size)
        self._state = np.zeros(4)

    def reset(self, rng: np.random.Generator) -> None:
        """At rest, anywhere."""
        low, high = self._physics.named.model.jnt_range["wrist"]
        self._state = np.array([rng.uniform(-np.pi, np.pi), rng.uniform(low, high), 0, 0])

    def state(self) -> Array:
        """(4,)."""
        return self._state.copy()

    def restore(self, state: Array) -> None:
        """See `state`."""
        self._state = np.array(state, np.float64)

    def step(self, action: Array) -> None:
        """0.04 s at these torques."""
        with self._physics.reset_context():
            self._physics.set_state(self._state)
        self._physics.set_control(action)
        self._physics.step(REPEAT)
        self._state = self._physics.get_state()[:4].copy()

    def seen(self) -> dict[str, NDArray[Any]]:
        """The picture, and joints where asked for."""
        with self._physics.reset_context():
            self._physics.set_state(self._state)
        seen: dict[str, NDArray[Any]] = {"camera": self._camera.picture(self._physics.data.ptr)}
        return seen | (self.truth(self._state) if self._options.proprioception else {})

    def truth(self, state: Array) -> dict[str, Array]:
        """Joints in rad and their speeds in rad/s."""
        return {"joints": state[:2], "speeds": state[2:]}

    def reached(self, state: Array, goal: Array) -> bool:
        """Both joints within 0.05 rad; a whole turn of the shoulder is another place, as the task's authors have it."""
        return bool((np.abs(state[:2] - goal[:2]) < NEAR).all())

    def pushed(self, state: Array, rng: np.random.Generator) -> Array:
        """The arm knocked: both joints 0.3 to 0.8 rad elsewhere, the wrist within its range, at rest."""
        turned = state[:2] + rng.uniform(0.3, 0.8, 2) * rng.choice([-1, 1], 2)
        low, high = self._physics.named.model.jnt_range["wrist"]
        return np.array([turned[0], np.clip(turned[1], low, high), 0, 0])

    def straight(self, state: Array, goal: Array) -> Array:
        """Torques as a spring and a damper between the joints and the goal's give."""
        return np.asarray(np.clip(2 * (goal[:2] - state[:2]) - 0.1 * state[2:], -1, 1))

    def behaviour(self, rng: np.random.Generator) -> Callable[[], Array]:
        """To random poses by a spring and a damper, with noise that lasts; one time in three by noise alone."""
        target: Array = self._state[:2]
        stiff, left, noise = 0.0, 0, rng.normal(0, 0.5, 2)

        def act() -> Array:
            nonlocal target, stiff, left, noise
            if left <= 0:
                low, high = self._physics.named.model.jnt_range["wrist"]
                target = np.array([self._state[0] + rng.uniform(-2.5, 2.5), rng.uniform(low, high)])
                stiff, left = rng.uniform(0.5, 4.0) * (rng.random() > 1 / 3), int(rng.integers(8, 30))
            left -= 1
            noise = 0.8 * noise + 0.6 * rng.normal(0, 0.4, 2)
            pull = stiff * (target - self._state[:2]) - 0.05 * stiff * self._state[2:]
            return np.asarray(np.clip(np.clip(pull, -1, 1) + noise, -1, 1))

        return act
