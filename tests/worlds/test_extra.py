"""Simulators of the extra `robots`: what is missing is told, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from foretell.errors import SpecError
from foretell.worlds.extra import needed


def test_a_missing_simulator_names_the_extra() -> None:
    with pytest.raises(SpecError, match=r"pusht: no_such_module .* pip install 'foretell\[robots\]'"):
        needed("no_such_module", "pusht")


@pytest.mark.parametrize("world", ["reacher", "pointmaze"])
def test_nothing_to_draw_with_is_one_line_that_names_the_package(world: str) -> None:
    # Not imported here: MuJoCo decides how to draw when it is.
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("needs `pip install 'foretell[robots]'`")
    clean = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    code = f"from foretell.worlds import make; make({world!r})"
    for driver in ("nonsense", "osmesa"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**clean, "MUJOCO_GL": driver}, capture_output=True, text=True
        )
        if driver == "osmesa" and not done.returncode:
            continue
        last = done.stderr.strip().splitlines()[-1]
        assert f"SpecError: {world}: nothing to draw with (MUJOCO_GL={driver}" in last
        assert "apt install libegl1" in last
