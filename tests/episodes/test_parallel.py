"""Episodes made by several processes: the same, in order, whatever happens to one of them."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretell.episodes import parallel
from foretell.episodes.parallel import in_parallel
from foretell.errors import DataError, SpecError
from foretell.spec import Episode


def _episodes(deaths: Path | None, at: int, times: int, first: int, count: int) -> Iterator[Episode]:
    """Episode i holds i; the process that makes episode `at` kills itself, `times` times."""
    for i in range(first, first + count):
        if deaths is not None and i == at and len(list(deaths.iterdir())) < times:
            (deaths / str(len(list(deaths.iterdir())))).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield Episode(observations={"x": np.full((2, 1), i, np.float32)}, actions=np.zeros((1, 1), np.float32))


def _numbers(make: functools.partial[Iterator[Episode]], count: int, workers: int = 2) -> list[int]:
    return [int(e.observations["x"][0, 0]) for e in in_parallel(make, count, workers)]


def test_all_come_in_order() -> None:
    assert _numbers(functools.partial(_episodes, None, 0, 0), 37) == list(range(37))


def test_what_a_killed_process_was_about_is_made_again(tmp_path: Path) -> None:
    assert _numbers(functools.partial(_episodes, tmp_path, 11, 2), 24) == list(range(24))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_broken_pool_refuses_is_still_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(ProcessPoolExecutor):
        calls = 0

        def submit(self, *arguments: Any, **named: Any) -> Any:
            Refusing.calls += 1
            # Once with some handed over, once with none.
            if Refusing.calls in (3, 4):
                raise BrokenProcessPool("broken")
            return super().submit(*arguments, **named)

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Refusing)
    assert _numbers(functools.partial(_episodes, None, 0, 0), 24) == list(range(24))
    assert Refusing.calls > 4


def test_episodes_over_which_processes_die_again_and_again_are_named(tmp_path: Path) -> None:
    coming = in_parallel(functools.partial(_episodes, tmp_path, 11, 99), 24, 2)
    # What was made before is not lost.
    assert [int(e.observations["x"][0, 0]) for e in itertools.islice(coming, 9)] == list(range(9))
    with pytest.raises(DataError, match="a process died 3 times over episodes 9 to 11"):
        next(coming)


def _mistaken(first: int, count: int) -> Iterator[Episode]:
    raise SpecError("no such option")


def test_a_mistake_is_told_as_it_is() -> None:
    with pytest.raises(SpecError, match="no such option"):
        list(in_parallel(_mistaken, 4, 2))
