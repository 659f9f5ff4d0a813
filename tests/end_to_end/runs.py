"""A store and a run that commands wrote, small and quick."""

from __future__ import annotations

import json
from pathlib import Path

from foretell.cli.main import main

WORLD = ("--set", "episode_steps=24")
TINY = {
    **{"model.latent": 8, "model.block": 2, "model.stem": 4, "model.features": 16, "model.width": 16, "model.depth": 1},
    **{"refine.steps": 3, "refine.batch": 16, "refine.blocks": 2},
    **{"distance.steps": 3, "distance.batch": 16, "distance.width": 8, "distance.depth": 1},
    **{"steps": 4, "batch": 8, "length": 3, "warmup": 1, "log-steps": 1},
    **{"precision": "float32", "device": "cpu"},
}


def tiny(**changes: object) -> list[str]:
    """Options of `foretell train` for a model that is trained in a moment."""
    settings = TINY | {name.replace("_", "-"): value for name, value in changes.items()}
    return [str(part) for name, value in settings.items() for part in (f"--{name}", value)]


def rooms(path: Path, episodes: int = 6, *more: str) -> Path:
    """A store of short random walks in two rooms."""
    assert main(["record", "two_rooms", "--episodes", str(episodes), "--out", str(path), *WORLD, *more]) == 0
    return path


def trained(store: Path, out: Path, **changes: object) -> Path:
    """A run on a store."""
    assert main(["train", str(store), "--out", str(out), *tiny(**changes)]) == 0
    return out


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but what is kept only to be quick."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".cache" not in p.parts
    }


def refused(error: str, out: str) -> str:
    """The one line of a command that was run with --json and refused; what it printed agrees."""
    lines = [line for line in error.splitlines() if line]
    assert len(lines) == 1, error
    assert lines[0].startswith("foretell: ")
    assert json.loads(out) == {"error": lines[0].removeprefix("foretell: ")}
    return lines[0]
