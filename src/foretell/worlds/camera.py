"""A small camera in MuJoCo simulators, without a display."""

from __future__ import annotations

import atexit
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.worlds.extra import needed

FINER = 2
"""Each pixel is the mean of so many by so many: the edges of small things stay where they are."""


def headless(world: str) -> None:
    """Lets MuJoCo draw without a display, unless told how by MUJOCO_GL; before anything else of it is imported.

    Raises SpecError where it is not installed, or where what is to draw is not.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        needed("mujoco", world)
    except SpecError:
        raise
    except Exception as error:
        raise _nothing(world, error) from error


def _nothing(world: str, error: BaseException) -> SpecError:
    return SpecError(
        f"{world}: nothing to draw with (MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {' '.join(str(error).split())[:80]});"
        " on Debian and Ubuntu: apt install libegl1 and MUJOCO_GL=egl, or apt install libosmesa6 and MUJOCO_GL=osmesa"
    )


class Camera:
    """Pictures (side, side, 3) of a model by `view`, a number, a name or an MjvCamera.

    Raises SpecError where nothing can draw.
    """

    def __init__(self, model: Any, view: Any, side: int, world: str) -> None:
        mujoco = needed("mujoco", world)
        self._view, self._side = view, side
        # Shadows and several samples a pixel would take most of the time; the renderer reads these when it is made.
        model.vis.quality.shadowsize, model.vis.quality.offsamples = 0, 0
        try:
            self._renderer = mujoco.Renderer(model, FINER * side, FINER * side)
        except Exception as error:
            raise _nothing(world, error) from error
        # Before the libraries below it go, which complain otherwise.
        atexit.register(self._renderer.close)

    def picture(self, data: Any) -> NDArray[np.uint8]:
        """What it sees of the model's data."""
        self._renderer.update_scene(data, self._view)
        drawn = self._renderer.render().reshape(self._side, FINER, self._side, FINER, 3)
        return np.asarray(np.rint(drawn.mean((1, 3), dtype=np.float32)), np.uint8)
