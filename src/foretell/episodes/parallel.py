"""Episodes made by several processes at once, in their order, whatever happens to one of the processes."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from foretell.errors import DataError
from foretell.spec import Episode

Make = Callable[[int, int], Iterable[Episode]]
"""The first of some episodes and how many -> these; it can be pickled."""
_AT_ONCE = 32
"""Episodes that a process makes before it hands them over, at most."""
_DEATHS = 3


def in_parallel(make: Make, count: int, workers: int) -> Iterator[Episode]:
    """Episodes 0 to count - 1, made by `workers` processes.

    Of a process that dies (killed, out of memory, a simulator that takes it along) the episodes are made again. Raises
    DataError where it dies three times over the same ones, and whatever `make` raises.
    """
    size = max(1, min(_AT_ONCE, count // (4 * workers)))
    todo = collections.deque((first, min(size, count - first), 0) for first in range(0, count, size))
    # After a death: of the pieces that were being made any may have been the one, so each is made by itself.
    suspects = 0
    while todo:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            running: collections.deque[tuple[Future[list[Episode]], int, int, int]] = collections.deque()
            try:
                while todo or running:
                    # Not all at once: what nobody has written yet lies in memory.
                    while todo and len(running) < (1 if suspects else 2 * workers):
                        first, many, died = todo[0]
                        # Refused where the pool has broken meanwhile: then it is still to do.
                        running.append((pool.submit(_made, make, first, many), first, many, died))
                        todo.popleft()
                    yield from running[0][0].result()
                    running.popleft()
                    suspects = max(0, suspects - 1)
            except BrokenProcessPool as error:
                known, again = suspects > 0, [(f, m, d) for _, f, m, d in running]
                if known and again:
                    first, many, died = again[0]
                    if died + 1 == _DEATHS:
                        raise DataError(
                            f"recording: a process died {_DEATHS} times over episodes {first} to {first + many - 1}"
                        ) from error
                    again[0] = (first, many, died + 1)
                todo.extendleft(reversed(again))
                suspects = suspects if known else max(1, len(again))


def _made(make: Make, first: int, count: int) -> list[Episode]:
    return list(make(first, count))
