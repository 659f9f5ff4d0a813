"""RUN/card.md, for people: what a model is, what it learned from, what it does not know, how far it is calibrated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from foretell.episodes.table import write_whole
from foretell.model.world_model import WorldModel
from foretell.spec import ActionSpec, Spec
from foretell.training.config import flat
from foretell.training.record import TrainRecord

NAME = "card.md"
_CALIBRATION = "## How far to trust it"
_NEVER = (
    "Not calibrated yet: it cannot say when it is not to be trusted. `foretell calibrate {run} STORE` does it, on"
    " episodes of the same kind that it was not trained on.",
)


def write_card(run: Path, model: WorldModel, record: TrainRecord, calibration: Sequence[str] = ()) -> None:
    """Write RUN/card.md, whole. calibration: what is said of it, a paragraph each; none: that there is none yet, and
    how to make one. Groups are counted, not named.
    """
    lines = list(_card(run, model, record, calibration or [text.format(run=run) for text in _NEVER]))
    text = "\n".join(lines).rstrip() + "\n"
    write_whole(run / NAME, lambda temporary: temporary.write_text(text, "utf-8"))


def write_calibration(run: Path, model: WorldModel, calibration: Sequence[str]) -> None:
    """Put other paragraphs into the part of RUN/card.md about calibration, the rest left as it is, whoever wrote it.

    Where there is no card, or no such part in it, the card is written anew.
    """
    if _CALIBRATION not in _read(run / NAME).splitlines():
        write_card(run, model, TrainRecord.read(run), calibration)
        return
    write_section(run / NAME, _CALIBRATION, "\n\n".join(calibration))


def write_section(path: Path, title: str, text: str) -> None:
    """Put a text under a title of a card, the rest left as it is; at its end where there is no such title yet."""
    card = _read(path)
    found = re.compile(rf"^{re.escape(title)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    made, count = found.subn(lambda _: f"{title}\n\n{text}\n\n", card, count=1)
    made = made if count else f"{card.rstrip()}\n\n{title}\n\n{text}\n"
    write_whole(path, lambda temporary: temporary.write_text(made.rstrip() + "\n", "utf-8"))


def _read(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


def _card(run: Path, model: WorldModel, record: TrainRecord, calibration: Sequence[str]) -> Iterator[str]:
    spec, config = model.spec, model.config
    yield from (f"# Model card: {run.resolve().name}", "")
    if spec.notice:
        yield from (f"**{spec.notice}**", "")
    acts = "; it knows no actions" if not spec.action.size else ""
    yield from (
        "A joint-embedding predictive world model: it encodes what is observed into a latent and predicts the latents"
        f" that actions lead to{acts}. Written by foretell; `train.json` holds all settings.",
        "",
        "## What it is",
        "",
    )
    yield from _table(
        ("", ""),
        [
            ("latent", f"{config.latent} values, {config.context} of them for what stays constant in an episode"),
            ("prediction", f"in blocks of {_steps(config.block, spec)}, from {config.history} latents"),
            ("looks back", _steps(config.look, spec) if config.look > 1 else "at one observation"),
            ("learned values", f"{record.parameters:,}"),
            ("read in the latents", ", ".join(config.grounded) or "nothing but by a readout, which calibration fits"),
        ],
    )
    yield from ("## What it sees and does", "")
    yield from _table(("channel", "field", "unit", "recorded"), _channels(spec, record.ranges))
    if spec.action.size:
        yield from _table(("action", "unit", "bounds", "recorded", ""), _actions(spec.action, record.ranges))
    yield from ("## What it learned from", "")
    groups = f"{len(record.groups)}, all or none of whose episodes it learned from" if record.groups else "not told of"
    yield from _table(
        ("", ""),
        [
            ("store", f"{Path(record.store).name}, fingerprint {record.fingerprint}"),
            ("episodes", f"{len(record.training):,}, the longest of {record.longest:,} steps"),
            ("groups (patients, machines)", groups),
            ("held out", f"{len(record.held_out):,} episodes"),
            ("training", f"{record.steps:,} steps of {record.config.batch} windows of {record.config.length} latents"),
            ("objective", _objective(record)),
            ("gains", ", ".join(record.config.gains) or "none"),
            ("seed", str(record.config.seed)),
            ("made with", ", ".join(f"{k} {v}" for k, v in record.machine.items())),
            ("precision, device", f"{record.precision}, {record.device}"),
        ],
    )
    yield from ("## What it does not know", "")
    longest = f"{_steps(record.longest - 1, spec)}" if record.longest > 1 else "the longest episode"
    yield from (
        f"- What comes after {longest} of an episode: none that it learned from was longer.",
        "- Values outside the ranges recorded above, and combinations of them that were never recorded together.",
        "- Worlds other than the recorded one: another machine, another population, another sensor, another season.",
    )
    if spec.action.size:
        yield (
            "- What actions do that the logs never varied but for reasons that are seen: ask `foretell overlap` before"
            " `foretell what-if`."
        )
    yield from ("", _CALIBRATION, "", "\n\n".join(calibration), "")


def _steps(count: int, spec: Spec) -> str:
    """A number of raw steps and how long they take."""
    seconds = count / spec.hz
    for size, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{count:,} steps ({seconds / size:.3g} {name})"
    return f"{count:,} step{'s' * (count != 1)} ({seconds:.3g} s)"


def _objective(record: TrainRecord) -> str:
    return ", ".join(f"{name} {value}" for name, value in flat(asdict(record.config.objective)))


def _channels(spec: Spec, ranges: Mapping[str, list[list[float]]]) -> Iterator[tuple[str, ...]]:
    for channel in spec.observations:
        if channel.kind == "image":
            yield (channel.name, " x ".join(map(str, channel.shape)), "8 bits a colour", "")
        for k, (field, unit) in enumerate(zip(channel.fields, channel.units, strict=True)):
            yield (channel.name, field, unit, _range(ranges, channel.name, k))
    for channel in spec.quantities:
        for field, unit in zip(channel.fields, channel.units, strict=True):
            yield (channel.name, field, unit, "never seen by the model")


def _actions(action: ActionSpec, ranges: Mapping[str, list[list[float]]]) -> Iterator[tuple[str, ...]]:
    for k, (name, unit) in enumerate(zip(action.names, action.units, strict=True)):
        bounds = f"{action.low[k]:g} to {action.high[k]:g}"
        told = "exogenous: told of, not chosen" if name in action.exogenous else "chosen"
        yield (name, unit, bounds, _range(ranges, "action", k), told)


def _range(ranges: Mapping[str, list[list[float]]], name: str, field: int) -> str:
    found = ranges.get(name, [])
    ends = found[field] if field < len(found) else []
    return f"{ends[0]:.4g} to {ends[1]:.4g}" if len(ends) == 2 else "nothing"


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> Iterator[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    yield row(head)
    yield "|" + "---|" * len(head)
    yield from map(row, rows)
    yield ""
