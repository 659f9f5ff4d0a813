"""What a command is: a frozen dataclass of options with `run` and `show`, and what it is run with.

To add a command: write `cli/NAME.py` with one `Command` in it (its fields become options, its docstring the
help) and add a line to `COMMANDS` in `cli/main.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from foretell.cli.console import progress_console, track
from foretell.errors import SpecError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Every command takes these."""

    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Seed of all randomness: the same seed on the same machine gives the same result."""
    json: bool = False
    """Print one JSON object on standard output, everything else on standard error."""
    threads: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="(default: automatic)")] = 0
    """CPU threads. Automatic: OMP_NUM_THREADS where it is set, else one per physical core, at most 4."""
    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SpecError(f"--seed: 0 or more expected, got {self.seed}")
        if self.threads < 0:
            raise SpecError(f"--threads: 0 (automatic) or more expected, got {self.threads}")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a command is run with. console: where progress goes, standard error."""

    seed: int = 0
    threads: int = 1
    console: Console = field(default_factory=progress_console)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items, one by one, behind a progress bar."""
        return track(items, what, total, self.console)


class Command(ABC):
    """One verb of the command line. Subclasses are frozen, keyword-only dataclasses."""

    @abstractmethod
    def run(self, context: Context) -> dict[str, Any]:
        """Do the work; returns the object that `--json` prints. Raises ForetellError for a user's mistake."""

    @abstractmethod
    def show(self, result: dict[str, Any], console: Console) -> None:
        """Print for people, on standard output, what `run` returned."""
