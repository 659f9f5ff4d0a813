"""Models that ship with foretell: opened by name, made from a run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from foretell import worlds
from foretell.errors import CheckpointError, SpecError
from foretell.evaluation.baselines import fit_cloning, fit_inverse_dynamics
from foretell.evaluation.experiment import Experiment
from foretell.evaluation.recipes import RECIPES
from foretell.evaluation.runs import open_run
from foretell.evaluation.suite import IMITATION
from foretell.evaluation.trust import calibrate_run, tell
from foretell.model.checkpoint import CONFIG, WEIGHTS, load, save
from foretell.model.world_model import WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.training import TrainRecord
from foretell.training.card import NAME as CARD
from foretell.training.card import write_section
from foretell.training.record import NAME as RECORD
from foretell.worlds import World

FOLDER = Path(__file__).resolve().parent.parent / "pretrained"
LARGEST = 8 * 2**20
"""Bytes of weights that ship at most."""
_SHIPPED = (CONFIG, WEIGHTS, CARD)
_MADE, _REACHES = "## How it was made", "## What it reaches"
_FIRST_TO_GO = ("support", f"{IMITATION}.cloning", "intervals")
"""Parts, or kinds of them, that are left out where there is no room, until there is."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model that ships. parts: the heads that travel with it. recipe: how it was made and how it plans."""

    name: str
    folder: Path
    model: WorldModel
    parts: Mapping[str, nn.Module]
    recipe: Experiment

    def world(self, **changes: Any) -> World:
        """The world that it learned, or one in which these options are others; ForetellError, saying what to install,
        where its simulator is missing.
        """
        return worlds.make(self.recipe.world, **{**self.recipe.options, **changes})


def names() -> tuple[str, ...]:
    """Of the models that ship."""
    return tuple(name for name in RECIPES if (FOLDER / name / CONFIG).is_file())


def pretrained(name: str) -> Pretrained:
    """The model of that name; SpecError where none is, CheckpointError where it is damaged."""
    if name not in names():
        raise SpecError(f"no pretrained model {name!r}: there are {', '.join(names())}")
    return opened(name, FOLDER / name)


def folder_of(model: str) -> Path:
    """The folder of a run, or of the model that ships under that name, whatever else a folder of that name holds;
    CheckpointError where it is neither.
    """
    if _ships(model):
        return FOLDER / model
    if not Path(model).is_dir():
        raise CheckpointError(f"{model}: a run folder, or one of {', '.join(names())}, expected, there is none")
    return Path(model)


def objective_of(model: str) -> ObjectiveConfig | None:
    """What the model that ships under that name was made with; None for a run, which tells it itself."""
    return RECIPES[model].training.objective if _ships(model) else None


def _ships(model: str) -> bool:
    return model in names() and not (Path(model) / CONFIG).is_file()


def opened(name: str, folder: Path) -> Pretrained:
    """A model made by the recipe of that name, in a folder that `ship` wrote; CheckpointError where it is damaged."""
    found = load(folder)
    return Pretrained(name=name, folder=folder, model=found.model, parts=found.parts, recipe=RECIPES[name])


def ship(
    run: Path,
    out: Path,
    *,
    seed: int,
    reach: int,
    command: str,
    store: Path | None = None,
    steps: int = 6000,
    cloning_steps: int = 1500,
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, nn.Module]:
    """Write what ships of a run into the folder `out`, in half precision: the model, its heads, policies by imitation
    of the episodes that it learned from, trust calibrated on those held out, and the card.

    reach: the farthest goal that is imitated, raw steps. command: how it is made again. steps, cloning_steps: of the
    two policies. store: where the run's episodes are now, if not where they were. Returns the parts for which there was
    no room. CheckpointError, and nothing written, where there is not even room without them.
    """
    opened = open_run(run, store=store)
    recorded, block = opened.recorded(), opened.model.config.block
    heads = ("temporal_distance", "actor_critic")
    parts = {n: p for n, p in opened.parts.items() if n in heads or n.startswith("readout.")}
    say("fitting inverse dynamics")
    dynamics = fit_inverse_dynamics(
        opened.model,
        opened.store,
        opened.training,
        recorded.of(opened.training),
        seed=seed,
        reach=reach,
        steps=steps,
        ahead=block,
    )
    say("fitting behaviour cloning")
    cloning = fit_cloning(opened.model, opened.store, opened.training, seed=seed, reach=reach, steps=cloning_steps)
    parts |= {f"{IMITATION}.inverse_dynamics": dynamics.imitation, f"{IMITATION}.cloning": cloning.imitation}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / run.resolve().name
        made.mkdir()
        for name in (CARD, RECORD):
            shutil.copy(run / name, made / name)
        # Calibrated is what ships, as it is in half precision: the weights, then what the first calibration has fitted.
        save(made, opened.model, parts, half=True)
        for _ in range(2):
            calibrated = calibrate_run(made, seed=seed, training_store=store, say=say)
            found = load(made)
            save(made, found.model, found.parts, half=True)
        kept, left = dict(found.parts), dict[str, nn.Module]()
        for name in [n for first in _FIRST_TO_GO for n in found.parts if n == first or n.startswith(f"{first}.")]:
            if (made / WEIGHTS).stat().st_size > LARGEST:
                say(f"without {name}, for which there is no room")
                left[name] = kept.pop(name)
                save(made, found.model, kept, half=True)
        if (size := (made / WEIGHTS).stat().st_size) > LARGEST:
            raise CheckpointError(f"{run}: at most {LARGEST:,} bytes to ship expected, got {size:,}")
        tell(made, found.model, kept, Path(calibrated["store"]), calibrated["episodes"])
        write_section(made / CARD, _MADE, _made(opened.note, command))
        write_section(made / CARD, _REACHES, "Not measured yet.")
        out.mkdir(parents=True, exist_ok=True)
        for name in _SHIPPED:
            shutil.copy(made / name, out / name)
    return left


def _made(note: TrainRecord, command: str) -> str:
    threads = f", {note.machine['threads']} threads" if "threads" in note.machine else ""
    return (
        f"By `{command}`: the last stage of its training took {note.seconds:,.0f} s for {note.steps:,} steps"
        f" ({note.device}{threads}, {note.precision}). Values ship in half precision. The policies by imitation that"
        " travel with it, which it is measured beside, learned from the same episodes."
    )


def write_figures(folder: Path, lines: Sequence[str]) -> None:
    """Put what a benchmark has measured, a line each, into the card of a model that ships."""
    write_section(folder / CARD, _REACHES, "\n".join(f"- {line}" for line in lines))
