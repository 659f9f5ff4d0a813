"""What every importer gives: a spec and the episodes that fit it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from foretell.spec import Episode, Spec


@dataclass(frozen=True, kw_only=True)
class Source:
    """Recordings of another format, opened.

    episodes: read one by one as they are asked for; reading raises DataError or SpecError where the
    recordings are damaged. count: how many there are, None where that is known only at the end.
    metadata: where they come from, as JSON can hold it.
    """

    spec: Spec
    episodes: Iterator[Episode]
    count: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
