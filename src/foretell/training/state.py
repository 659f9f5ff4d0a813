"""Where an interrupted run goes on: weights, heads, optimiser and step, in one file that is whole or not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretell.errors import CheckpointError
from foretell.model.checkpoint import fill, read_tensors, write_tensors
from foretell.objective.objective import Objective

PATH = Path("resume") / "state.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """How far a run is. step: optimiser steps done. seconds: spent on them, over all its processes in turn."""

    step: int = 0
    seconds: float = 0.0


def save_state(run: Path, objective: Objective, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write RUN/resume/state.safetensors."""
    tensors: dict[str, Tensor] = {f"objective.{k}": v for k, v in objective.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    write_tensors(run / PATH, tensors, {"format": _FORMAT, "step": progress.step, "seconds": progress.seconds})


def load_state(run: Path, objective: Objective, optimizer: torch.optim.Optimizer) -> Progress:
    """The inverse of `save_state`, in place; CheckpointError where the file is damaged or of another model."""
    path = run / PATH
    tensors, notes = read_tensors(path)
    if notes.get("format") != _FORMAT or not isinstance(notes.get("step"), int):
        raise CheckpointError(f"{path}: state of format {_FORMAT} expected, got {notes.get('format')!r}")
    mine = {k.removeprefix("objective."): v for k, v in tensors.items() if k.startswith("objective.")}
    fill(objective, mine, str(path))
    state: dict[int, dict[str, Any]] = {}
    try:
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the optimiser's state does not fit: {error}") from error
    return Progress(notes["step"], float(notes["seconds"]))
